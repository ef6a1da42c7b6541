"""Operators: what each ONNX operator does to channels. No other floor but `forms` names an operator."""
