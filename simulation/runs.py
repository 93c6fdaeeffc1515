"""Runs in the store: beginning one, finding it again, and going on with it under the same identity.

Invariant: a run's rows are written once, before anything is played; its personas are its trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.prompts import Prompt
from simulation.cast import Cast, differences, judge_specs, roles_of
from simulation.config import PersonasConfig, RunConfig, make_config
from simulation.personas import seed_personalities, seed_profiles
from simulation.situations import draw_situations
from trees.errors import NotFound, SetupError
from trees.ids import digest_of, run_id, tree_id
from trees.personas import Personality, Profile, draw_pairs, parse_personas
from trees.situations import Situation
from trees.store import RunRow, Store
from trees.writes import (
    Write,
    in_one,
    keep_event,
    keep_judge,
    keep_model,
    keep_personality,
    keep_profile,
    keep_prompt,
    keep_revision,
    keep_run,
    keep_tree,
)

Persona = tuple[Profile, Personality]


@dataclass(frozen=True)
class Planned:
    """A run that a cast and its personas make, in the store or not."""

    id: str
    cast: Cast
    personas: Sequence[Persona]
    folder: Path | None
    """Where the configuration's own prompts lie."""

    def situations(self) -> list[Situation | None]:
        """What brings each of them to talk."""
        config = self.cast.config
        keys = [persona_key(profile, personality) for profile, personality in self.personas]
        return draw_situations(config.situations, keys, config.turns, config.seed)


def plan_run(cast: Cast, personas: Sequence[Persona], folder: Path | None) -> Planned:
    ids: list[list[str | None]] = [[profile.id, personality.id] for profile, personality in personas]
    return Planned(run_id(cast.identity(), cast.config.seed, ids), cast, personas, folder)


def begin(store: Store, planned: Planned) -> RunRow:
    """Write a run's rows unless they are there already."""
    cast, config, run = planned.cast, planned.cast.config, planned.id
    if not store.rows("SELECT 1 FROM runs WHERE id = ?", (run,)):
        store.apply(
            in_one(
                [
                    keep_run(run, "play", config.name, config.seed, cast.identity(), cast.operation(planned.folder)),
                    keep_cast(cast),
                    keep_revision(run, 0, {role: p.id for role, p in cast.prompts.items()}, "configuration"),
                    keep_personas(run, planned.personas, planned.situations()),
                    keep_event(run, "run.planned", {"trees": len(planned.personas), "turns": config.turns}),
                ]
            )
        )
    return store.run(run)


def keep_cast(cast: Cast) -> list[Write]:
    """The models, prompts and judges that rows refer to."""
    return in_one(
        [
            *(keep_prompt(p.id, p.kind, p.text) for p in cast.prompts.values()),
            *(keep_model(m.identity.id, name, m.identity.as_dict()) for name, m in cast.models.items()),
            *(keep_judge(spec.id, name, spec.kind, spec.as_dict()) for name, spec in cast.judges.items()),
        ]
    )


def keep_personas(run: str, personas: Sequence[Persona], situations: Sequence[Situation | None]) -> list[Write]:
    writes: list[Write] = []
    for position, ((profile, personality), situation) in enumerate(zip(personas, situations, strict=True)):
        tree = tree_id(run, persona_key(profile, personality))
        writes += keep_profile(profile, source="run")
        writes += keep_personality(personality, source="run")
        title = title_of(profile)
        writes += keep_tree(tree, run, position, profile.id, personality.id, title=title, situation=situation)
    return writes


def persona_key(profile: Profile, personality: Personality) -> str:
    return f"{profile.id}:{personality.id}"


def title_of(profile: Profile) -> str:
    """Who speaks, in a few words, for lists."""
    first = profile.facts[0] if profile.facts else profile.text
    return first if len(first) <= 60 else first[:57].rsplit(" ", 1)[0] + " ..."


def config_of(run: RunRow) -> RunConfig:
    """A run's configuration as the store has it: frozen identity, operational fields as they stand now."""
    given: dict[str, Any] = {
        "name": run.name,
        "seed": run.seed,
        **run.identity["play"],
        "models": run.operation["models"],
        "limits": run.operation["limits"],
        "personas": run.operation.get("personas", {}),
    }
    return make_config(given, f"run {run.id[:8]}")


def judges_of(run: RunRow) -> dict[str, str]:
    """Ids of the judges that a run was configured with, by name: others may bear the same name and join later."""
    config = config_of(run)
    models = {name: digest_of("model", identity) for name, identity in run.identity["models"].items()}
    specs = judge_specs(config, roles_of(config), models, run.identity["prompts"])
    return {name: spec.id for name, spec in specs.items()}


def prompts_of(store: Store, run: RunRow, revision: int = -1) -> dict[str, Prompt]:
    """A run's prompts by role, as of a revision (the latest if not said)."""
    return {role: Prompt(*store.prompt(prompt)) for role, prompt in store.revisions(run.id)[revision].items()}


def check_identity(run: RunRow, cast: Cast) -> None:
    """Raise SetupError naming the keys in which a run and a cast differ. Prompts are the store's and do not count."""
    given = cast.identity()
    found = differences(_without_prompts(run.identity), _without_prompts(given))
    if cast.config.seed != run.seed:
        found.append("seed")
    if found:
        raise SetupError(
            f"run {run.id[:8]} is frozen, and this would change {', '.join(found)}",
            hint="Put these back to go on with it, or start another run with `espalier run`.",
        )


def _without_prompts(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != "prompts"}


def latest_run(store: Store, *, unfinished: bool = False) -> RunRow:
    """The run that was worked on last. Raises NotFound."""
    runs = [run for run in store.runs() if run.kind == "play" and not (unfinished and run.state == "finished")]
    if not runs:
        what = "no unfinished run" if unfinished else "no run"
        raise NotFound(f"{what} in {store.path}", hint="Start one: espalier init quickstart.toml, then espalier run.")
    return max(runs, key=lambda run: run.updated_at)


def draw_personas(config: PersonasConfig, seed: int, folder: Path | None, store: Store | None) -> list[Persona]:
    """The run's personas: a draw without repeats from its pools, or a recorded one. Raises SetupError."""
    if config.draw is not None:
        return _recorded(config, store)
    profiles = {p.id: p for p in _profiles(config.profiles, folder, store)}
    personalities = {p.id: p for p in _personalities(config.personalities, folder, store)}
    try:
        drawn = draw_pairs(list(profiles), list(personalities), config.count, seed)
    except ValueError as error:
        raise SetupError(f"personas.count: {error}") from error
    return [(profiles[profile], personalities[personality]) for profile, personality in drawn]


def _recorded(config: PersonasConfig, store: Store | None) -> list[Persona]:
    """The first personas of a recorded draw."""
    if store is None:
        raise SetupError(f"personas.draw is {config.draw!r}, and there is no store yet that could hold it")
    draw = store.find("draws", config.draw or "")
    sql = "SELECT profile_id, personality_id FROM draw_pairs WHERE draw_id = ? ORDER BY position LIMIT ?"
    pairs = store.rows(sql, (draw, config.count))
    if len(pairs) < config.count:
        raise SetupError(f"personas.count is {config.count}, and the draw {draw[:8]} holds {len(pairs)} personas")
    return [(store.profile(profile), store.personality(personality)) for profile, personality in pairs]


def _profiles(source: str, folder: Path | None, store: Store | None) -> Sequence[Profile]:
    if source == "seeds":
        return seed_profiles()
    if source == "store":
        ids = _in_store(store, "profiles")
        return [store.profile(i) for i in ids] if store is not None else []
    return [item for item in read_people(source, folder, "profile") if isinstance(item, Profile)]


def _personalities(source: str, folder: Path | None, store: Store | None) -> Sequence[Personality]:
    if source == "seeds":
        return seed_personalities()
    if source == "store":
        ids = _in_store(store, "personalities")
        return [store.personality(i) for i in ids] if store is not None else []
    return [item for item in read_people(source, folder, "personality") if isinstance(item, Personality)]


def _in_store(store: Store | None, table: str) -> list[str]:
    """Ids of the items in a store that may be played in training data."""
    kind = "profile" if table == "profiles" else "personality"
    sql = "SELECT id FROM pool WHERE split = 'train' AND kind = ? ORDER BY id"
    ids = [] if store is None else [row[0] for row in store.rows(sql, (kind,))]
    if not ids:
        raise SetupError(f"the store holds no {table}", hint="Let some grow: espalier personas grow.")
    return ids


def read_people(source: str, folder: Path | None, kind: Any) -> Sequence[Profile | Personality]:
    """The profiles or personalities of a file beside a configuration. Raises SetupError for a broken line."""
    path = (folder or Path()) / source
    try:
        parsed = parse_personas(path.read_bytes(), kind=kind, source=str(path))
    except OSError as error:
        raise SetupError(f"personas: cannot read {path}: {error.strerror}") from error
    if parsed.problems:
        where = "; ".join(f"line {p.line}: {p.what}" for p in parsed.problems[:5])
        raise SetupError(f"personas: {path} has {len(parsed.problems)} broken lines ({where})")
    return parsed.items
