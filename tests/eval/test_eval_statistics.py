"""Statistics against known values, other libraries and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from eval.intervals import LEVEL, Clusters, accuracy, compare, gap_recovered, proportion_interval
from eval.metrics.label_agreement import LabelAgreement
from eval.metrics.probability_quality import ProbabilityQuality, reliability

TEST_SETS = 1000


def simulated(share: float, clusters: int, correlation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and items of every question in `TEST_SETS` test sets; 1–6 items a question, whose
    correctness correlates within the question (beta-binomial)."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, size=(TEST_SETS, clusters))
    strength = (1 - correlation) / correlation
    chances = rng.beta(share * strength, (1 - share) * strength, size=sizes.shape)
    return rng.binomial(sizes, chances).astype(float), sizes.astype(float)


@pytest.mark.parametrize("clusters", [50, 100, 200])
@pytest.mark.parametrize("share", [0.5, 0.78, 0.9])
@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_intervals_cover_the_truth(share: float, clusters: int, correlation: float) -> None:
    totals, sizes = simulated(share, clusters, correlation, seed=clusters)
    _, low, high, _ = proportion_interval(totals, sizes)
    assert 0.93 <= ((low <= share) & (share <= high)).mean() <= 0.97


def test_intervals_that_ignore_the_questions_would_not_cover() -> None:
    totals, sizes = simulated(0.78, 100, 0.3, seed=1)
    low, high = proportion_confint(totals.sum(1), sizes.sum(1), method="wilson")
    assert ((low <= 0.78) & (high >= 0.78)).mean() < 0.90


def test_bootstrap_difference_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    groups = [str(k) for k in range(60) for _ in range(3)]
    hits = 0
    for seed in range(150):
        easy = np.repeat(rng.normal(size=60), 3)
        first = (easy + rng.normal(size=180) < 0.6)[:, None].astype(float)
        second = (easy + rng.normal(size=180) < 0.2)[:, None].astype(float)
        found = compare(first, second, groups, seed).difference
        truth = stats.norm.cdf(0.6 / np.sqrt(2)) - stats.norm.cdf(0.2 / np.sqrt(2))
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_single_item_questions_give_nearly_the_plain_wilson_interval() -> None:
    correct = np.array([1.0] * 152 + [0.0] * 48)
    found = accuracy(correct, [str(k) for k in range(200)])
    low, high = proportion_confint(152, 200, alpha=1 - LEVEL, method="wilson")
    assert found.value == 0.76
    assert found.low == pytest.approx(low, abs=2e-3)
    assert found.high == pytest.approx(high, abs=2e-3)
    assert found.stderr == pytest.approx(np.sqrt(0.76 * 0.24 / 199), rel=1e-3)


def test_copies_of_an_item_do_not_narrow_the_interval() -> None:
    once = accuracy(np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]), list("abcdefgh"))
    thrice = accuracy(np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0], 3), [g for g in "abcdefgh" for _ in "123"])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_all_alike_still_leaves_doubt(value: float, low: float, high: float) -> None:
    found = accuracy(np.full(120, value), [str(k // 3) for k in range(120)])
    assert low <= found.low and found.high <= high
    assert found.high - found.low > 0.05


def test_one_question_says_nothing() -> None:
    assert accuracy(np.ones(5), ["q"] * 5).low == 0.0


def test_clusters_sum_by_question() -> None:
    clusters = Clusters.of(np.array([1.0, 0.0, 1.0, 1.0]), ["b", "a", "b", "a"])
    assert clusters.totals.ravel().tolist() == [1.0, 2.0]
    assert clusters.sizes.tolist() == [2.0, 2.0]


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = np.array([1.0] * 30 + [1.0] * 11 + [0.0] * 3 + [0.0] * 6)[:, None]
    second = np.array([1.0] * 30 + [0.0] * 11 + [1.0] * 3 + [0.0] * 6)[:, None]
    found = compare(first, second, [str(k) for k in range(50)])
    assert (found.only_first, found.only_second) == (11, 3)
    assert found.p_mcnemar == pytest.approx(stats.binomtest(3, 14).pvalue)
    assert found.difference.value == pytest.approx(0.16)
    assert 0.005 < found.p_bootstrap < 0.08


def test_equal_conditions_do_not_differ() -> None:
    same = np.array([1.0, 0.0, 1.0, 1.0])[:, None]
    found = compare(same, same, list("abcd"))
    assert (found.p_bootstrap, found.p_mcnemar, found.difference.value) == (1.0, 1.0, 0.0)


def test_gap_recovered() -> None:
    rng = np.random.default_rng(2)
    groups = [str(k // 2) for k in range(400)]
    zero_shot, golden = (rng.random(400) < 0.5).astype(float), (rng.random(400) < 0.9).astype(float)
    found = gap_recovered(np.where(rng.random(400) < 0.75, golden, zero_shot), zero_shot, golden, groups)
    assert found is not None
    assert found.low < 0.75 < found.high
    assert 0.6 < found.value < 0.9


def test_no_share_of_a_gap_that_is_in_doubt() -> None:
    rng = np.random.default_rng(3)
    a, b, c = ((rng.random(100) < 0.5).astype(float) for _ in range(3))
    assert gap_recovered(a, b, c, [str(k) for k in range(100)]) is None


def test_label_agreement_counts_no_answer_as_wrong() -> None:
    found = LabelAgreement(keep_in_memory=True).compute(predictions=[0, 0, 1, -1, 0, 0], references=[0, 0, 1, 1, 1, 0])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["macro_f1"] == pytest.approx((2 * 0.75 / 1.75 + 0.5) / 2)


def test_probability_quality_of_two_labels() -> None:
    rng = np.random.default_rng(4)
    gold = rng.integers(2, size=200)
    positive = np.clip(0.5 + 0.2 * (2 * gold - 1) + rng.normal(0, 0.2, 200), 0.01, 0.99)
    found = ProbabilityQuality(keep_in_memory=True).compute(
        predictions=np.stack([1 - positive, positive], axis=1).tolist(), references=gold.tolist()
    )
    u = stats.mannwhitneyu(positive[gold == 1], positive[gold == 0]).statistic
    assert found["auroc"] == pytest.approx(u / ((gold == 1).sum() * (gold == 0).sum()))
    assert found["brier"] == pytest.approx(brier_score_loss(gold, positive))


def test_ece_of_known_bins() -> None:
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.35, 0.65]] * 10)
    gold = np.array([0] * 8 + [1] * 2 + [1] * 7 + [0] * 3)
    found = ProbabilityQuality(keep_in_memory=True).compute(
        predictions=probabilities.tolist(), references=gold.tolist()
    )
    assert found["ece"] == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)
    assert [(round(mean, 2), share, count) for mean, share, count in reliability(probabilities, gold)] == [
        (0.65, 0.7, 10),
        (0.95, 0.8, 10),
    ]


def test_one_class_has_no_auroc() -> None:
    found = ProbabilityQuality(keep_in_memory=True).compute(predictions=[[0.2, 0.8], [0.4, 0.6]], references=[1, 1])
    assert found["auroc"] is None


def test_three_labels() -> None:
    found = ProbabilityQuality(keep_in_memory=True).compute(
        predictions=[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], references=[0, 1, 2]
    )
    assert found["auroc"] == 1.0
    assert found["brier"] == pytest.approx(0.04 + 0.01 + 0.01)


def test_draws_without_a_gap_do_not_spoil_the_share() -> None:
    zero_shot = np.array([1.0] * 57 + [0.0] * 43)
    golden = np.array([1.0] * 45 + [0.0] * 12 + [1.0] * 35 + [0.0] * 8)
    found = gap_recovered(golden, zero_shot, golden, [str(number) for number in range(100)])
    assert found is not None and (found.value, found.low, found.high, found.stderr) == (1, 1, 1, 0)


def test_one_right_of_every_pair_has_a_narrow_interval() -> None:
    found = accuracy(np.array([1.0, 0.0] * 50), [str(number // 2) for number in range(100)])
    assert 0.48 < found.low < found.value == 0.5 < found.high < 0.52
