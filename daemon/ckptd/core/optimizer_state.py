"""Whether an optimizer's state belongs to given weights.

Format: `paddle/optimizer/optimizer.py` (`_add_accumulator`, `state_dict`). An accumulator is called
`<parameter>_<accumulator>_<k>`, beside a master weight `<parameter>_fp32_master_<k>_<accumulator>_<k>`; the
dict `master_weights` is keyed by parameter. Parameters go by Paddle's internal names (`linear_0.w_0`).
Unified checkpoints of PaddleNLP (`trainer/unified_checkpoint`) call an accumulator `<key>/<accumulator>_<k>`
and a master weight `<key>`, by the key that the weights file has for the parameter.

To call state foreign condemns a set, so this speaks only where names and shapes leave no other reading:
tensors that are no accumulators (LBFGS, `LR_Scheduler`, optimizers of other people) say nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptd.core.model import TensorFacts

    Shapes = set[tuple[int, ...]]

MASTER_WEIGHTS: Final = "master_weights"
_SHOWN_CHARACTERS = 80

# Accumulators that all optimizers keep in their parameter's shape, if not as a single number. Not among them:
# `moment2`, of which PaddleNLP's AdamW-mini keeps less, and ASGD's `y`, of which there are several.
_PARAMETER_SHAPED = frozenset(
    {
        MASTER_WEIGHTS,
        "_avg_squared_grad",
        "_avg_squared_update",
        "inf_norm",
        "learning_rates",
        "mean_grad",
        "mean_square",
        "moment",
        "moment1",
        "moment2_max",
        "momentum",
        "prevs",
        "slow",
        "velocity",
    }
)
_OTHERS = frozenset(
    {
        "beta1_pow",
        "beta1_pow_acc",
        "beta2_pow",
        "beta2_pow_acc",
        "moment2",
        "momentum_decay_pow",
        "mu_product",
    }
)
_ACCUMULATOR = re.compile(".+[_/](?:{})_[0-9]+".format("|".join(sorted(_PARAMETER_SHAPED | _OTHERS))))
_AFTER_PARAMETER = re.compile(r"(?:fp32_master_[0-9]+_)?(?P<accumulator>.+)_[0-9]+")

_SEPARATOR = re.compile("[_/]")

# To save space, PaddleNLP can write moments in one byte or half a byte an element.
_QUANTIZED = frozenset({"int8", "uint8"})

# Tensors that were computed or copied before they were saved (averaged weights, `copy.deepcopy`) do not go by
# the names of the parameters that they stand for.
_COMPUTED = re.compile(r"(?:.*\.tmp|eager_tmp|eager_in_tmp|generated_tensor|generated_var|tmp)_[0-9]+")
_COPIED = re.compile(r"(?:_deepcopy_[0-9]+)+$")


def is_accumulator(tensor: TensorFacts) -> bool:
    """Whether a tensor is optimizer state, judged by its name alone."""
    return _ACCUMULATOR.fullmatch(_name(tensor)) is not None or MASTER_WEIGHTS in tensor.key[:-1]


def foreign_state(optimizer: Iterable[TensorFacts], weights: Sequence[TensorFacts]) -> str | None:
    """Say what in the optimizer's tensors fits no parameter among the weights.

    Returns:
        A description of the first misfit and the number of all; None where all fit or nothing can be said.
    """
    named = [one for one in weights if is_named(one)]
    knows_all = bool(named) and all(is_named(one) or math.prod(one.shape) <= 1 for one in weights)
    # Without internal names, the keys themselves may be those: so it is in what `paddle.static.save` writes.
    shapes = _by_parameter(named) if named else _by_key(weights)
    strays: list[str] = []
    misshapen: list[str] = []
    is_matched = False
    for tensor in optimizer:
        split = _split(tensor, shapes)
        if split is None:
            if _is_stray(tensor):
                strays.append(f"{_shown(tensor)} belongs to no parameter of this set")
            continue
        is_matched = True
        parameter, accumulator = split
        is_shaped = accumulator in _PARAMETER_SHAPED and tensor.dtype not in _QUANTIZED
        if is_shaped and not _fits(tensor.shape, shapes[parameter]):
            expected = " or ".join(map(str, sorted(shapes[parameter])))
            misshapen.append(f"{_shown(tensor)} has the shape {tensor.shape}, its parameter {expected}")
    if not knows_all and (named or not is_matched):
        strays = []  # they may belong to weights whose names are not known
    misfits = misshapen + strays
    more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
    return misfits[0] + more if misfits else None


def is_named(weight: TensorFacts) -> bool:
    """Whether a tensor goes by the name of a parameter."""
    return weight.parameter is not None and not _COMPUTED.fullmatch(weight.parameter)


def _by_parameter(weights: Iterable[TensorFacts]) -> dict[str, Shapes]:
    shapes: dict[str, Shapes] = defaultdict(set)
    for one in weights:
        name = one.parameter or ""
        for known in {name, _COPIED.sub("", name)}:
            shapes[known].add(one.shape)
    return dict(shapes)


def _by_key(weights: Iterable[TensorFacts]) -> dict[str, Shapes]:
    shapes: dict[str, Shapes] = defaultdict(set)
    for one in weights:
        shapes[_name(one)].add(one.shape)
    return dict(shapes)


def _name(tensor: TensorFacts) -> str:
    """The innermost key; sequences give their members none."""
    last = tensor.key[-1] if tensor.key else None
    return last if isinstance(last, str) else ""


def _split(tensor: TensorFacts, shapes: Mapping[str, Shapes]) -> tuple[str, str] | None:
    """The parameter, by the longest name that fits, and what is kept of it."""
    name = _name(tensor)
    if MASTER_WEIGHTS in tensor.key[:-1]:
        return (name, MASTER_WEIGHTS) if name in shapes else None
    for end in reversed([found.start() for found in _SEPARATOR.finditer(name, 1)]):
        rest = _AFTER_PARAMETER.fullmatch(name[end + 1 :])
        if rest and name[:end] in shapes:
            return name[:end], rest["accumulator"]
    return None


def _is_stray(tensor: TensorFacts) -> bool:
    """Whether this must belong to a parameter: slices of sharded ones have an `@` in names of their own."""
    return is_accumulator(tensor) and math.prod(tensor.shape) > 1 and "@" not in _name(tensor)


def _fits(shape: tuple[int, ...], expected: Shapes) -> bool:
    return math.prod(shape) in {1, *map(math.prod, expected)}


def _shown(tensor: TensorFacts) -> str:
    return shown(_name(tensor)[:_SHOWN_CHARACTERS])
