"""Truth of captions: by hand, and the fast matrix against the definition."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.pipeline.scenes import meaning as meaning
from cusa.pipeline.scenes.captions import draw_captions
from cusa.pipeline.scenes.meaning import Claim, Mention, Scene, Thing, is_true, truth_matrix
from cusa.pipeline.scenes.stage import draw_meaning

RED_STAR = Thing("star", "red", "small", "plain", 0, 0)
BLUE_STAR = Thing("star", "blue", "large", "dotted", 2, 0)
RED_RING = Thing("ring", "red", "large", "striped", 0, 1)
SCENE = Scene((RED_STAR, BLUE_STAR, RED_RING), "snow")


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim((Mention("star"),)), True),
        (Claim((Mention("moon"),)), False),
        (Claim((Mention("star", "blue", "large", "dotted", "top right"),)), True),
        (Claim((Mention("star", "blue", "small"),)), False),
        (Claim((Mention("ring", "blue"),)), False),  # a ring and something blue, but not in one thing
        (Claim((Mention("star"), Mention("star"))), True),
        (Claim((Mention("ring"), Mention("ring"))), False),  # one ring is not two
        (Claim((Mention("star"), Mention(colour="red"))), True),
        (Claim((Mention("star", "red"), Mention(place="top left"))), False),  # the same thing cannot be both
        (Claim((Mention("ring"), Mention("star", "red"), Mention("star"))), True),
        (Claim((Mention(), Mention(), Mention())), True),
        (Claim((Mention("ring", place="left"),)), True),
        (Claim((Mention("ring", place="middle"),)), False),
        (Claim((Mention("star"), Mention("ring")), "right of"), True),
        (Claim((Mention("ring"), Mention("star")), "right of"), False),
        (Claim((Mention("star", "red"), Mention("ring")), "left of"), False),  # one above the other
        (Claim((Mention("star", "red"), Mention("ring")), "above"), True),
        (Claim((Mention("star"), Mention("star")), "above"), False),
        (Claim((Mention("ring"), Mention("star")), "below"), True),
        (Claim((Mention("ring"), Mention("star")), "next to"), True),
        (Claim((Mention("star"), Mention("star")), "next to"), False),
        (Claim((Mention("star"),), None, "snow"), True),
        (Claim((Mention("star"),), None, "night"), False),
        (Claim((Mention("star"),), None, None, 3), True),
        (Claim((Mention("star"),), None, None, 2), False),
        (Claim(), True),
    ],
)
def test_truth_by_hand(claim: Claim, expected: bool) -> None:
    assert is_true(claim, SCENE) is expected
    assert truth_matrix([SCENE], [claim]).tolist() == [[expected]]


def test_a_scene_of_one_thing_satisfies_no_second_mention() -> None:
    lonely = Scene((RED_STAR,), "sky")
    claims = [Claim((Mention(), Mention())), Claim((Mention(),)), Claim((Mention(),), None, "sky", 1)]
    assert truth_matrix([lonely], claims).tolist() == [[False, True, True]]
    assert [is_true(claim, lonely) for claim in claims] == [False, True, True]


def _maybe(values: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values[:3])  # few values, so that many claims are true


MENTIONS = st.builds(
    Mention,
    _maybe(meaning.SHAPES),
    _maybe(meaning.COLOURS),
    _maybe(meaning.SIZES),
    _maybe(meaning.TEXTURES),
    st.none() | st.sampled_from(sorted(meaning.PLACES)),
)


@st.composite
def _scenes(draw: st.DrawFn) -> Scene:
    cells = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3, unique=True))
    things = [
        Thing(
            draw(st.sampled_from(meaning.SHAPES[:3])),
            draw(st.sampled_from(meaning.COLOURS[:3])),
            draw(st.sampled_from(meaning.SIZES)),
            draw(st.sampled_from(meaning.TEXTURES[:3])),
            *cell,
        )
        for cell in cells
    ]
    return Scene(tuple(things), draw(st.sampled_from(meaning.BACKGROUNDS[:2])))


@st.composite
def _claims(draw: st.DrawFn) -> Claim:
    mentions = tuple(draw(st.lists(MENTIONS, max_size=3)))
    relation = draw(st.none() | st.sampled_from(meaning.RELATIONS)) if len(mentions) > 1 else None
    return Claim(mentions, relation, draw(_maybe(meaning.BACKGROUNDS)), draw(st.none() | st.integers(1, 3)))


@given(st.lists(_scenes(), min_size=1, max_size=4), st.lists(_claims(), min_size=1, max_size=8))
def test_the_matrix_is_the_definition(scenes: list[Scene], claims: list[Claim]) -> None:
    expected = [[is_true(claim, scene) for claim in claims] for scene in scenes]
    assert truth_matrix(scenes, claims).tolist() == expected


def test_the_matrix_is_the_definition_on_drawn_captions() -> None:
    rng = Random(5)
    scenes = [draw_meaning(rng) for _ in range(60)]
    claims = [claim for scene in scenes for _, claim in draw_captions(scene, rng)]
    matrix = truth_matrix(scenes, claims)
    expected = np.array([[is_true(claim, scene) for claim in claims] for scene in scenes])
    assert (matrix == expected).all()
    assert matrix.sum() > 2 * len(claims)  # and there is something to agree on


def test_true_things_stay_true_when_a_thing_is_added_or_a_claim_says_less() -> None:
    rng = Random(6)
    for _ in range(200):
        scene = draw_meaning(rng)
        if len(scene.things) == 3:
            continue
        free = [(c, r) for c in range(3) for r in range(3) if (c, r) not in [(t.column, t.row) for t in scene.things]]
        more = Scene((*scene.things, Thing("moon", "pink", "small", "plain", *rng.choice(free))), scene.background)
        for _, claim in draw_captions(scene, rng):
            assert is_true(claim, more) is (claim.count is None)
            assert is_true(Claim(claim.mentions[::-1]), scene)


@given(_scenes(), _claims())
def test_meanings_survive_json(scene: Scene, claim: Claim) -> None:
    assert meaning.scene_from_json(meaning.scene_to_json(scene)) == scene
    assert meaning.claim_from_json(meaning.claim_to_json(claim)) == claim
