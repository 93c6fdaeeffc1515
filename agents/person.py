"""A persona as agents read it: the personality's pronouns fitted to the profile, facts and traits one by one."""

from __future__ import annotations

from agents.messages import Person
from agents.pronouns import fit_pronouns
from trees.personas import Personality, Profile
from trees.situations import Situation
from trees.store import Store, TreeRow


def person_of(profile: Profile, personality: Personality, situation: Situation | None = None) -> Person:
    """The two halves as one person, in a situation."""
    traits = tuple(fit_pronouns(trait, personality.pronouns, profile.pronouns) for trait in personality.traits)
    fitted = fit_pronouns(personality.text, personality.pronouns, profile.pronouns)
    return Person(profile=profile.text, personality=fitted, facts=(*profile.facts, *traits), situation=situation)


def person_in(store: Store, tree: TreeRow) -> Person | None:
    """The persona of a stored tree; None where a person spoke for themselves."""
    if tree.profile_id is None or tree.personality_id is None:
        return None
    return person_of(store.profile(tree.profile_id), store.personality(tree.personality_id), tree.situation)
