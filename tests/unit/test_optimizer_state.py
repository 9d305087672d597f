from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import TensorFacts
from ckptd.core.optimizer_state import foreign_state, is_accumulator

# The network of the tables below: two linear layers with a batch norm in between.
PARAMETERS = {
    "linear_0.w_0": (4, 3),
    "linear_0.b_0": (3,),
    "batch_norm1d_0.w_0": (3,),
    "batch_norm1d_0.b_0": (3,),
    "linear_1.w_0": (3, 1),
    "linear_1.b_0": (1,),
}
# What `state_dict()` of Paddle 3.3's optimizers holds for `linear_0.w_0` of the shape (4, 3).
OPTIMIZERS = {
    "Adam": {"moment1_0": (4, 3), "moment2_0": (4, 3), "beta1_pow_acc_0": (1,), "beta2_pow_acc_0": (1,)},
    "Adam amsgrad": {
        "moment1_0": (4, 3),
        "moment2_0": (4, 3),
        "moment2_max_0": (4, 3),
        "beta1_pow_acc_0": (1,),
    },
    "AdamW multi_precision": {
        "fp32_master_0_moment1_0": (4, 3),
        "fp32_master_0_moment2_0": (4, 3),
        "fp32_master_0_beta1_pow_acc_0": (1,),
    },
    "AdamW-mini of PaddleNLP": {"moment1_0": (4, 3), "moment2_0": (1,), "beta1_pow_acc_0": (1,)},
    "Adam with a name": {"sgd_moment1_0": (4, 3), "sgd_moment2_0": (4, 3)},
    "second optimizer of a process": {"moment1_1": (4, 3), "moment2_1": (4, 3)},
    "Momentum": {"velocity_0": (4, 3)},
    "RMSProp": {"momentum_0": (4, 3), "mean_square_0": (4, 3), "mean_grad_0": (4, 3)},
    "Lamb": {"moment1_0": (4, 3), "moment2_0": (4, 3), "beta1_pow_acc_0": (1,), "beta2_pow_acc_0": (1,)},
    "Adagrad": {"moment_0": (4, 3)},
    "Adadelta": {"_avg_squared_grad_0": (4, 3), "_avg_squared_update_0": (4, 3)},
    "Adamax": {"moment_0": (4, 3), "inf_norm_0": (4, 3), "beta1_pow_acc_0": (1,)},
    "NAdam": {
        "momentum_decay_pow_0": (4, 3),
        "beta2_pow_0": (4, 3),
        "mu_product_0": (4, 3),
        "moment1_0": (4, 3),
    },
    "RAdam": {"beta1_pow_0": (4, 3), "beta2_pow_0": (4, 3), "rho_0": (4, 3), "moment1_0": (4, 3)},
    "ASGD": {"d_0": (4, 3), "y_0": (2, 4, 3), "m_0": (1,)},
    "Rprop": {"prevs_0": (4, 3), "learning_rates_0": (4, 3)},
    "LookAhead": {"slow_0": (4, 3)},
    "ModelAverage": {"sum_1_0": (4, 3), "restore_0": (4, 3), "num_accumulates_0": (1,)},
}


def tensor(*key, shape=(4, 3), parameter=None):
    """One tensor of a file."""
    return TensorFacts(key, shape, "float32", 4, 0, parameter)


def weights(parameters=PARAMETERS, naming=lambda name: name):
    """The weights as `paddle.save(layer.state_dict())` writes them; `naming` changes the internal names."""
    return [
        tensor(f"layer.{number}", shape=shape, parameter=naming(name))
        for number, (name, shape) in enumerate(parameters.items())
    ]


def adam(parameters=PARAMETERS, *outer):
    """The state of Adam for these parameters, within the given outer keys."""
    moments = [
        tensor(*outer, f"{name}_{moment}_0", shape=shape)
        for moment in ("moment1", "moment2")
        for name, shape in parameters.items()
    ]
    powers = [tensor(*outer, f"{name}_beta1_pow_acc_0", shape=(1,)) for name in parameters]
    return moments + powers


layers = st.sampled_from(["linear", "my", "my_w"])
names = st.builds("{}_{}.{}_0".format, layers, st.integers(0, 3), st.sampled_from("wb"))
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
networks = st.dictionaries(names | st.text("ab_1", min_size=1, max_size=5), shapes, min_size=1, max_size=6)


@given(networks, st.data())
def test_foreign_state_of_any_networks_own_optimizer_is_none(network, data):
    """Whatever its parameters are called, also such that begin alike, an optimizer fits its own network."""
    trained = data.draw(st.sets(st.sampled_from(sorted(network))))

    assert foreign_state(adam({name: network[name] for name in trained}), weights(network)) is None


@given(networks, st.integers(5, 9))
def test_foreign_state_of_another_width_is_found(network, factor):
    """State of a wider network is told by its shapes."""
    wider = {name: (factor, *shape) for name, shape in network.items()}

    assert foreign_state(adam(wider), weights(network)) is not None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_foreign_state_of_each_optimizer_of_paddle_is_none(optimizer):
    """What Paddle's own optimizers write for a network belongs to it."""
    state = [tensor(f"linear_0.w_0_{name}", shape=shape) for name, shape in OPTIMIZERS[optimizer].items()]

    assert foreign_state(state, weights()) is None


OTHER = {"conv2d_0.w_0": (8, 3, 3, 3)}


@pytest.mark.parametrize(
    ("state", "network", "expected"),
    [
        (
            adam(OTHER),
            weights(),
            "conv2d_0.w_0_moment1_0 belongs to no parameter of this set, and 1 more",
        ),
        (
            [tensor("conv2d_0.w_0_velocity_0")],
            weights(),
            "conv2d_0.w_0_velocity_0 belongs to no parameter of this set",
        ),
        (
            adam({"linear_0.w_0": (4, 8)}),
            weights(),
            "linear_0.w_0_moment1_0 has the shape (4, 8), its parameter (4, 3)",
        ),
        (adam({"linear_0.w_0": (3, 4)}), weights(), None),  # as many numbers
        (
            [tensor("master_weights", "conv2d_0.w_0")],
            weights(),
            "conv2d_0.w_0 belongs to no parameter of this set",
        ),
        (
            [tensor("master_weights", "linear_0.w_0"), tensor("LR_Scheduler", "best", shape=())],
            weights(),
            None,
        ),
        (
            [tensor("master_weights", "linear_0.w_0", shape=(9,))],
            weights(),
            "linear_0.w_0 has the shape (9,), its parameter (4, 3)",
        ),
        # A list of optimizers, as PaddleClas writes.
        (adam(PARAMETERS, 0), weights(), None),
        (
            adam(OTHER, 0),
            weights(),
            "conv2d_0.w_0_moment1_0 belongs to no parameter of this set, and 1 more",
        ),
        # LBFGS has one flat vector for all parameters.
        (
            [tensor("state", "d", shape=(31,)), tensor("state", "old_yk", 0, shape=(31,)), tensor()],
            weights(),
            None,
        ),
        # Slices of sharded parameters.
        ([tensor("slice@conv2d_0.w_0_moment1_0")], weights(), None),
        # An optimizer without tensors.
        ([], weights(), None),
        # Two ranks may call different parameters alike.
        (adam(), weights() + weights({"linear_0.w_0": (8, 8)}), None),
        (
            adam({"linear_0.w_0": (5, 5)}),
            weights() + weights({"linear_0.w_0": (8, 8)}),
            "linear_0.w_0_moment1_0 has the shape (5, 5), its parameter (4, 3) or (8, 8)",
        ),
        # No weights at all, or weights without names.
        (adam(), [], None),
        (adam(), [tensor("fc1.weight"), tensor("fc1.bias")], None),
        # paddle.static.save: the keys are the names; the learning rate is among the weights.
        (
            adam({"fc_0.w_0": (4, 3)}),
            [tensor("fc_0.w_0"), tensor("fc_1.w_0"), tensor("learning_rate_0", shape=())],
            None,
        ),
        (
            adam({"fc_0.w_0": (4, 3), "conv2d_0.w_0": (8, 3)}),
            [tensor("fc_0.w_0"), tensor("learning_rate_0", shape=())],
            "conv2d_0.w_0_moment1_0 belongs to no parameter of this set, and 1 more",
        ),
        # Averaged weights are computed tensors, which have lost their names; the buffers have kept theirs.
        (
            adam(),
            [tensor("fc1.weight", parameter="eager_tmp_7"), *weights({"batch_norm1d_0.w_1": (3,)})],
            None,
        ),
        # A loss beside the weights is no unknown parameter.
        (
            adam(OTHER),
            [*weights(), tensor("loss", shape=(), parameter="eager_tmp_1")],
            "conv2d_0.w_0_moment1_0 belongs to no parameter of this set, and 1 more",
        ),
        # Layers that were copied have parameters of new names.
        (adam(), weights(naming=lambda name: f"{name}_deepcopy_12"), None),
        (
            adam({"linear_0.w_0_deepcopy_12": (4, 3)}),
            weights({"linear_0.w_0_deepcopy_12": (4, 3)}),
            None,
        ),
    ],
)
def test_foreign_state_of_known_states(state, network, expected):
    """A statement is made only where names and shapes leave no other reading."""
    assert expected == foreign_state(state, network)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (("linear_0.w_0_moment1_0",), True),
        (("opt", "linear_0.w_0__avg_squared_grad_0"), True),
        (("master_weights", "linear_0.w_0"), True),
        (("fc1.weight",), False),
        (("moment1_0",), False),
        (("opt", "linear_0.w_0_beta1_pow_acc_0"), True),
        (("state", 3), False),
        ((), False),
    ],
)
def test_is_accumulator_goes_by_the_name(key, expected):
    """Optimizer state is known by how Paddle's accumulators are called."""
    assert expected is is_accumulator(tensor(*key))


def test_foreign_state_of_a_hostile_name_shows_it_short_and_printable():
    """What the file calls its tensors cannot forge a log line or fill it."""
    detail = foreign_state([tensor("a\n" * 1000 + "_moment1_0"), tensor("\x1b_moment1_0")], weights())

    assert detail is not None
    assert detail.isprintable()
    assert len(detail) < 400


UNIFIED = [tensor("llama.q.weight", shape=(4, 3)), tensor("llama.norm.weight", shape=(3,))]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (tensor("llama.q.weight/moment1_0"), None),
        (tensor("llama.norm.weight/beta1_pow_acc_0", shape=(1,)), None),
        (
            tensor("llama.q.weight/moment1_0", shape=(3, 3)),
            "llama.q.weight/moment1_0 has the shape (3, 3), its parameter (4, 3)",
        ),
        (TensorFacts(("llama.q.weight/moment1_0",), (4, 2), "uint8", 8, 0), None),  # quantized, and packed
        (tensor("master_weights", "llama.q.weight"), None),
        (
            tensor("master_weights", "llama.q.weight", shape=(2, 3)),
            "llama.q.weight has the shape (2, 3), its parameter (4, 3)",
        ),
        (
            tensor("llama.k.weight/moment1_0"),
            "llama.k.weight/moment1_0 belongs to no parameter of this set",
        ),
        (
            tensor("master_weights", "llama.k.weight"),
            "llama.k.weight belongs to no parameter of this set",
        ),
    ],
)
def test_foreign_state_of_a_unified_checkpoint_goes_by_the_keys_of_the_weights(state, expected):
    """PaddleNLP renames the state: what stands before the slash is the key of the parameter."""
    matched = tensor("llama.q.weight/moment2_0")

    assert expected == foreign_state([matched, state], UNIFIED)
    assert is_accumulator(state)
