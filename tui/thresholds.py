"""What a threshold of the pool is worth, in words: which of the labelled pairs it takes for the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.persona_calibration import Found
    from trees.pool import Threshold

BY_HAND = ", as set by hand"


def filter_told(measured: Mapping[str, Any], threshold: float) -> str:
    """What the pool's threshold finds, for the end of a sentence that names it."""
    if measured.get("by") == "hand":
        return BY_HAND + worth(measured, threshold)
    return worth(measured, threshold) + held_back(measured)


def guard_told(measured: Mapping[str, Any], guard: float) -> str:
    """What the guard's threshold finds, likewise."""
    return (BY_HAND if measured.get("guard_by") == "hand" else "") + worth(measured, guard)


def worth(measured: Mapping[str, Any], threshold: float) -> str:
    """Counts of the labelled pairs at a threshold; empty where they were not measured."""
    from simulation.persona_calibration import found_at

    found = found_at(measured, threshold)
    if found is None:
        return ""
    (same, of), (alike, of_alike), (other, of_others) = found.paraphrases, found.same_kind, found.different
    errors = f"{alike} of {of_alike} of one kind and {other} of {of_others} different in error"
    return f": finds {same} of {of} paraphrases, {errors}"


def held_back(measured: Mapping[str, Any]) -> str:
    """What the way of choosing is worth on pairs that a threshold was not chosen on; empty where it was set by hand."""
    if "precision_interval" not in measured or measured.get("by") == "hand":
        return ""
    (low, high), (least, most) = measured["precision_interval"], measured["recall_interval"]
    told = f"precision {low:.2f} to {high:.2f} and recall {least:.2f} to {most:.2f}"
    return f" (chosen on half of the pairs it has {told} on the other half)"


def few_found(kind: str, measured: Mapping[str, Any], guard: float) -> str | None:
    """What to say where the guard of held-out items finds few paraphrases; None where it finds enough."""
    from simulation.persona_calibration import WARNED_BELOW, found_at

    found = found_at(measured, guard)
    if found is None or found.recall >= WARNED_BELOW:
        return None
    return (
        f"the guard of held-out {'profiles' if kind == 'profile' else 'personalities'} takes two for one from "
        f"{guard:.3f} on{worth(measured, guard)}: espalier personas split --{kind}-threshold, set lower, finds more"
    )


def shown(threshold: Threshold) -> dict[str, Any]:
    """A threshold for JSON, without every pair's similarity."""
    from simulation.persona_calibration import found_at

    told = {name: value for name, value in threshold.measured.items() if name != "similarities"}
    return {
        "threshold": threshold.threshold,
        **told,
        "finds": _counts(found_at(threshold.measured, threshold.threshold)),
        "guard": threshold.guarding,
        "guard_finds": _counts(found_at(threshold.measured, threshold.guarding)),
    }


def _counts(found: Found | None) -> dict[str, list[int]] | None:
    """Pairs taken for the same, and how many there are, by label."""
    if found is None:
        return None
    return {name: list(getattr(found, name)) for name in ("paraphrases", "same_kind", "different")}
