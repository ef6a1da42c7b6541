"""A pass of Olive (extra `olive`): a model is condensed in a workflow, for example before it is quantized.

`onnx_condense.olive.package_config()` is Olive's own list of passes with this one in it:

    olive.workflows.run(workflow, package_config=onnx_condense.olive.package_config())
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.onnx.common import get_external_data_config, model_proto_to_olive_model
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnx_condense.flags import Flag, flags_of
from onnx_condense.options import Options
from onnx_condense.pipeline import condense

ANY = float | int | bool | str | list[Any] | dict[str, Any] | None
"""What an option may be in a workflow: as JSON has it, or as a command line has it."""


class OnnxCondense(Pass):
    """Merges condensed neurons. Every field of `Options` is an option of the pass."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        own = {name: PassConfigParam(type_=ANY, description=flag.help) for name, flag in flags_of(Options).items()}
        return {**get_external_data_config(), **own}

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        given = {name: getattr(config, name) for name in flags_of(Options)}
        result = condense(model.model_path, options_of(given))
        return model_proto_to_olive_model(result.model, path, config)


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a workflow: None is left out, texts are read as on a command line. Raises UsageError."""
    flags = flags_of(Options)
    return Options(**{name: _value(flags[name], value) for name, value in given.items() if value is not None})


def package_config() -> dict[str, Any]:
    """Olive's passes, and this one."""
    known: dict[str, Any] = OlivePackageConfig.load_default_config().model_dump(mode="json")
    known["passes"][OnnxCondense.__name__.lower()] = {
        "module_path": f"{__name__}.{OnnxCondense.__name__}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
    }
    return known


def _value(flag: Flag, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: tuple(sizes) for name, sizes in value.items()}
    if flag.gather is None:
        return flag.read(value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    several = value if isinstance(value, list) else [value]
    return flag.gather([flag.read(one) if isinstance(one, str) else tuple(one) for one in several])
