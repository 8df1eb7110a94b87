"""Programs that nobody thought of: generated from a grammar, crashed at every prefix like the corpus."""

from functools import partial

from hypothesis import HealthCheck, given, settings, strategies

from .machine_driver import Driver, Library, crash_at_every_prefix
from .machine_programs import act_out

SHORT = strategies.integers(0, 3)
LEAVES = strategies.one_of(
    strategies.tuples(strategies.just("step"), SHORT),
    strategies.tuples(strategies.just("sleep"), SHORT),
    strategies.just(("fail",)),
    strategies.just(("ask",)),
)


def larger(nodes):
    some = strategies.lists(nodes, min_size=1, max_size=3)
    return strategies.one_of(
        *(
            strategies.builds(lambda parts, word: (word, *parts), some, strategies.just(word))
            for word in ("in turn", "gather", "gather all", "group", "first", "generate")
        ),
        *(strategies.tuples(strategies.just(word), SHORT, nodes) for word in ("timeout", "wait for")),
        *(strategies.tuples(strategies.just(word), nodes, nodes) for word in ("cancel", "finally")),
        *(strategies.tuples(strategies.just(word), nodes) for word in ("shield", "spawn")),
    )


PROGRAMS = strategies.recursive(LEAVES, larger, max_leaves=8)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(node=PROGRAMS, seed=strategies.integers(0, 2**32), cancelled=strategies.booleans())
def test_a_crash_at_every_prefix_of_any_program_repeats_no_recorded_step(node, seed, cancelled):
    library = Library({"generated": partial(act_out, node=node)})
    crash_at_every_prefix(Driver(library, "generated", seed, cancelled))


def test_the_grammar_means_what_it_says():
    node = (
        "in turn",
        ("step", 1),
        ("gather all", ("fail",), ("step", 2)),
        ("timeout", 0, ("ask",)),
        ("group", ("ask",)),
    )
    driver = Driver(Library({"said": lambda ctx: act_out(ctx, node)}), "said", 1)
    assert driver.run() == (
        """completed [10,["'fail' failed as a step: ValueError: no 0","20"],"late",["Well? yes"]]"""
    )
