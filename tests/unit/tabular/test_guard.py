import json
import math

import numpy as np
import pytest

from chassis.artifacts import canonical_json
from services.trainer import guarding
from tabular.bundle import Bundle, ModelColumn
from tabular.guard import Finding, Guard, GuardUnreadable
from tabular.vectors import Vectors

BUNDLE = Bundle(
    "m",
    "binary",
    (ModelColumn("amount", "numeric"), ModelColumn("age", "numeric"), ModelColumn("shop", "categorical")),
    {},
)
NAN, INF = float("nan"), float("inf")
# At least what `find` takes as arrays.
MANY = 50


def vectors(rows: list[tuple[float, float, str]]) -> Vectors:
    numeric = np.array([row[:2] for row in rows], dtype=np.float64).reshape(len(rows), 2)
    return Vectors(numeric, np.array([[row[2]] for row in rows], dtype=object).reshape(len(rows), 1))


def trained(seed: int = 0, rows: int = 4_000) -> Vectors:
    """Return rows whose `amount` has nulls and whose `age` has none."""
    chance = np.random.default_rng(seed)
    amount = chance.normal(size=rows)
    amount[chance.random(rows) < 0.1] = NAN
    age = chance.integers(18, 80, rows).astype(float)
    shop = chance.choice(np.array(["a", "b", "rare"], dtype=object), rows, p=[0.6, 0.395, 0.005])
    return Vectors(np.column_stack([amount, age]), shop.reshape(-1, 1))


def fitted() -> Guard:
    return guarding.fit(BUNDLE, trained(0), trained(1, 2_000))


def found(guard: Guard, asked: Vectors) -> list[Finding]:
    return list(guard.find(asked, asked.numeric.tolist(), asked.categorical.tolist()))


@pytest.mark.parametrize(
    ("row", "out_of_range", "unseen"),
    [
        ((0.1, 40.0, "a"), [], []),
        ((NAN, 40.0, "a"), [], []),
        ((0.1, 17.0, "a"), ["age"], []),
        ((0.1, 81.0, "a"), ["age"], []),
        ((99.0, 40.0, "a"), ["amount"], []),
        ((-99.0, 40.0, "b"), ["amount"], []),
        ((INF, 40.0, "b"), ["amount"], []),
        ((-INF, 40.0, "b"), ["amount"], []),
        ((0.1, NAN, "a"), [], ["age"]),
        ((0.1, -INF, "a"), ["age"], []),
        ((0.1, 40.0, ""), [], ["shop"]),
        ((99.0, NAN, "c"), ["amount"], ["age", "shop"]),
    ],
)
@pytest.mark.parametrize("beside", [0, 3, MANY])
def test_values_that_no_training_row_had_are_named_alone_and_among_others(
    row: tuple[float, float, str], out_of_range: list[str], unseen: list[str], beside: int
) -> None:
    asked = vectors([*[(0.0, 40.0, "a")] * beside, row])
    named = [(each.row, each.out_of_range, each.unseen) for each in found(fitted(), asked)]
    assert named == ([(beside, out_of_range, unseen)] if out_of_range or unseen else [])


def test_single_rows_and_many_find_the_same() -> None:
    guard, asked = fitted(), trained(2)
    asked.numeric[::7] *= 3
    asked.categorical[::11] = "new"
    alone = [each for row in range(len(asked)) for each in found(guard, asked.take(slice(row, row + 1)))]
    assert len(alone) > 100
    assert [(e.out_of_range, e.unseen, e.rarity, e.out_of_distribution) for e in alone] == [
        (e.out_of_range, e.unseen, e.rarity, e.out_of_distribution) for e in found(guard, asked)
    ]


def test_one_in_two_hundred_validation_rows_is_above_the_limit() -> None:
    guard = fitted()
    above = [each for each in found(guard, trained(1, 2_000)) if each.out_of_distribution]
    # Rarities come in steps, so that several rows share the one at the limit.
    assert 0 < len(above) <= 10
    fresh = [each for each in found(guard, trained(3)) if each.out_of_distribution]
    assert len(fresh) / 4_000 < 0.01


def test_usual_values_together_are_not_flagged_and_several_rare_ones_are() -> None:
    guard, learnt = fitted(), trained(0)
    numbers = np.nan_to_num(learnt.numeric)
    outermost = vectors([(numbers[:, 0].max(), numbers[:, 1].max(), "rare")])
    (extreme,) = found(guard, outermost)
    assert (extreme.out_of_range, extreme.unseen, extreme.out_of_distribution) == ([], [], True)
    assert extreme.rarity > guard.limit
    assert found(guard, vectors([(0.0, 50.0, "a")])) == []


def test_a_rarity_is_that_of_the_tail_and_of_categories_as_rare() -> None:
    learnt = Vectors(
        np.column_stack([np.arange(1024.0), np.ones(1024)]),
        np.array(["a"] * 768 + ["b"] * 192 + ["c"] * 64, dtype=object).reshape(-1, 1),
    )
    guard = guarding.fit(BUNDLE, learnt, learnt)
    asked = vectors([(512.0, 1.0, "a"), (512.0, 1.0, "b"), (512.0, 1.0, "c"), (0.0, 1.0, "a"), (1023.0, 1.0, "a")])
    rarities = guard.rarities(asked)
    assert rarities[:3] == pytest.approx([0.0, math.log(4), math.log(16)], abs=0.01)
    # The least and the greatest of 1,024 rows, on either side.
    assert rarities[3:] == pytest.approx([math.log(512)] * 2)


def test_single_precision_of_the_ends_is_in_range() -> None:
    chance = np.random.default_rng(5)
    learnt = Vectors(chance.normal(size=(500, 2)) * 1e5, np.full((500, 1), "a", dtype=object))
    guard = guarding.fit(BUNDLE, learnt, learnt)
    ends = np.concatenate([learnt.numeric.min(axis=0), learnt.numeric.max(axis=0)]).reshape(2, 2).astype(np.float32)
    asked = Vectors(ends.astype(np.float64), np.full((2, 1), "a", dtype=object))
    assert not any(each.out_of_range for each in found(guard, asked))


def test_columns_without_numbers_and_with_too_many_texts_are_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "_MOST_CATEGORIES", 100)
    learnt = Vectors(
        np.column_stack([np.full(200, NAN), np.full(200, INF)]),
        np.array([str(number) for number in range(200)], dtype=object).reshape(-1, 1),
    )
    guard = guarding.fit(BUNDLE, learnt, learnt)
    assert guard.categories == {"shop": None}
    assert found(guard, vectors([(NAN, 1.0, "never")]))[0].out_of_range == ["age"]
    assert found(guard, vectors([(1.0, INF, "never")]))[0].out_of_range == ["amount", "age"]


def test_a_guard_is_read_as_it_was_written() -> None:
    guard, asked = fitted(), trained(4)
    read = Guard.from_bytes(canonical_json(guard.to_json()), BUNDLE.numeric, BUNDLE.categorical)
    assert read == guard
    assert found(read, asked) == found(guard, asked)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"numbers": {}},
        {"categories": {}},
        {"limit": "high"},
        {"numbers": {"amount": {"cuts": [0.0, 1.0], "rarities": []}, "age": {"cuts": [0.0, 1.0], "rarities": [0.0]}}},
    ],
)
def test_what_is_no_guard_of_these_columns_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(GuardUnreadable):
        Guard.from_bytes(json.dumps(fitted().to_json() | change).encode(), BUNDLE.numeric, BUNDLE.categorical)
    with pytest.raises(GuardUnreadable):
        Guard.from_bytes(b"\x00", BUNDLE.numeric, BUNDLE.categorical)
