"""Names: every one that is given is new, and taken from then on."""

from support.builders import build

from onnx_condense.model.names import Names


def test_fresh_names_are_numbered_from_one() -> None:
    names = Names(["w", "w_1", "b"])
    assert [names.fresh(stem) for stem in ("w", "w", "new", "new")] == ["w_2", "w_3", "new", "new_1"]


def test_a_prefix_begins_no_name() -> None:
    names = Names(["if.then/h", "if.then0/h"])
    assert [names.prefix("if.then", "/"), names.prefix("if.then", "/")] == ["if.then1/", "if.then2/"]
    assert Names([]).prefix("loop.body", "/") == "loop.body/"


def test_names_of_a_graph_are_those_of_its_bodies_too() -> None:
    model = build(
        """g (float[N, 6] x, bool c) => (float[N, 6] y) {
            h = Tanh(x)
            y = If (c) <then_branch = t () => (float[N, 6] a) { i = Exp(h) a = Neg(i) },
                        else_branch = e () => (float[N, 6] b) { b = Sin(h) }>
        }"""
    )
    names = Names.of(model.graph)
    taken = [*"xchyiab"]
    assert [names.fresh(name) for name in taken] == [f"{name}_1" for name in taken]
