"""The store's schema as an append-only list of numbered migrations.

Each runs in a transaction together with its record, so a migration is applied whole or not at all, and applying the
list twice changes nothing. A landed migration is never edited: a change is a new function at the end. Who owns which
table (who may write it) stands in docs/store.md.
"""

from __future__ import annotations

import sys

# sqlite-utils loads pandas and numpy wherever they are installed, only to take data frames: 100 MB for an engine that
# has none. They are hidden while it loads and can be loaded by others afterwards.
_HIDDEN = [name for name in ("pandas", "numpy") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]
from sqlite_utils import Database as Database  # noqa: E402
from sqlite_utils import Migrations  # noqa: E402

for _name in _HIDDEN:
    del sys.modules[_name]

migrations = Migrations("espalier")


@migrations()
def m001_people_prompts_models(db: Database) -> None:
    """Who is played, with which words, by which weights: things that runs refer to and share."""
    db.executescript("""
    CREATE TABLE profiles (
        id TEXT PRIMARY KEY,          -- digest of the text
        text TEXT NOT NULL,           -- as written
        facts TEXT NOT NULL,          -- JSON array of sentences
        pronouns TEXT NOT NULL,       -- she, he or they, as written
        split TEXT NOT NULL DEFAULT 'train' CHECK (split IN ('train', 'held_out')),
        source TEXT NOT NULL,         -- file or command it came from
        added_at REAL NOT NULL        -- Unix seconds
    );
    CREATE TABLE personalities (
        id TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        traits TEXT NOT NULL,         -- JSON array of sentences
        pronouns TEXT NOT NULL,
        split TEXT NOT NULL DEFAULT 'train' CHECK (split IN ('train', 'held_out')),
        source TEXT NOT NULL,
        added_at REAL NOT NULL
    );
    CREATE TABLE prompts (
        id TEXT PRIMARY KEY,          -- digest of role and text
        role TEXT NOT NULL,           -- the kind of role it is for: user, inducer, judge.choice ...
        text TEXT NOT NULL,           -- whole, with what it includes
        note TEXT,
        added_at REAL NOT NULL
    );
    CREATE TABLE models (
        id TEXT PRIMARY KEY,          -- digest of the identity
        backend TEXT NOT NULL,
        label TEXT NOT NULL,          -- the name of the first configuration that used it, for reading
        identity TEXT NOT NULL        -- JSON: weights by content, revision, quantisation, template, adapter, settings
    );
    CREATE TABLE judges (
        id TEXT PRIMARY KEY,          -- digest of kind, model, prompt, thresholds
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        spec TEXT NOT NULL            -- JSON that the id digests
    );
    """)


@migrations()
def m002_runs_and_trees(db: Database) -> None:
    """What is played: runs, their frozen personas, trees, messages and what was read from them."""
    db.executescript("""
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,          -- digest of identity, seed and personas
        kind TEXT NOT NULL CHECK (kind IN ('play', 'human', 'import')),
        name TEXT NOT NULL,
        seed INTEGER NOT NULL,
        identity TEXT NOT NULL,       -- JSON: the frozen half of the configuration, resolved
        operation TEXT NOT NULL,      -- JSON: the half that may change, as it stands now
        state TEXT NOT NULL CHECK (state IN ('new', 'running', 'paused', 'stopped', 'finished', 'failed')),
        reason TEXT,                  -- why it stands in this state, in words
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    );
    CREATE TABLE revisions (
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        revision INTEGER NOT NULL,    -- 0 is what the run began with
        prompts TEXT NOT NULL,        -- JSON object: configured role to prompt id
        asked_by TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (run_id, revision)
    ) WITHOUT ROWID;
    CREATE TABLE trees (
        id TEXT PRIMARY KEY,
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,    -- place in the run's list of personas, from 0
        profile_id TEXT REFERENCES profiles(id),
        personality_id TEXT REFERENCES personalities(id),
        revision INTEGER NOT NULL DEFAULT 0, -- of the run's prompts that this tree is played under
        state TEXT NOT NULL CHECK (state IN ('growing', 'done', 'failed')),
        turns INTEGER NOT NULL DEFAULT 0,    -- deepest turn that is stored
        nodes INTEGER NOT NULL DEFAULT 0,    -- messages stored
        cause TEXT,                   -- JSON {turn, kind, message} of a failed tree
        title TEXT NOT NULL DEFAULT '', -- who is speaking, for lists
        updated_at REAL NOT NULL,
        UNIQUE (run_id, position)
    );
    CREATE TABLE operations (
        id TEXT PRIMARY KEY,          -- digest of run, node, kind and number
        tree_id TEXT NOT NULL REFERENCES trees(id) ON DELETE CASCADE,
        node_id TEXT NOT NULL,        -- the node a person pointed at
        kind TEXT NOT NULL,           -- reroll, edit, extend, say
        number INTEGER NOT NULL,      -- among the operations of this kind on this node
        args TEXT NOT NULL,           -- JSON
        asked_by TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY,          -- digest of run, parent, role and replica
        tree_id TEXT NOT NULL REFERENCES trees(id) ON DELETE CASCADE,
        parent_id TEXT REFERENCES nodes(id), -- NULL for an opening
        turn INTEGER NOT NULL,        -- from 1; a user message and its replies share it
        speaker TEXT NOT NULL CHECK (speaker IN ('user', 'assistant')),
        role TEXT NOT NULL,           -- the configured role that spoke
        replica TEXT NOT NULL,        -- sample index, or an operation and its index
        origin TEXT NOT NULL CHECK (origin IN ('model', 'human', 'import')),
        text TEXT NOT NULL,           -- escaped as docs/store.md says
        digest TEXT NOT NULL,         -- of the text
        reasoning TEXT,
        call_id TEXT,                 -- the call that gave the text
        answer INTEGER NOT NULL DEFAULT 0, -- index among that call's answers
        model_id TEXT REFERENCES models(id),
        hinted INTEGER NOT NULL DEFAULT 0,
        drift TEXT,                   -- what the detector still found after the last re-roll
        rerolls INTEGER NOT NULL DEFAULT 0,
        operation_id TEXT REFERENCES operations(id),
        at REAL NOT NULL
    );
    CREATE INDEX nodes_by_tree ON nodes(tree_id);
    CREATE INDEX nodes_by_parent ON nodes(parent_id);
    CREATE INDEX nodes_by_call ON nodes(call_id);
    CREATE INDEX trees_by_state ON trees(run_id, state);
    CREATE TABLE continued (
        node_id TEXT PRIMARY KEY REFERENCES nodes(id) ON DELETE CASCADE,
        policy TEXT NOT NULL,
        reason TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE ledgers (
        node_id TEXT PRIMARY KEY REFERENCES nodes(id) ON DELETE CASCADE, -- the user's message
        facts TEXT NOT NULL,          -- JSON array: what is new with this message
        sees_persona INTEGER NOT NULL,
        call_id TEXT,
        dropped INTEGER NOT NULL DEFAULT 0, -- facts named that the user's words do not support
        failure TEXT
    ) WITHOUT ROWID;
    """)


@migrations()
def m003_judging(db: Database) -> None:
    """What judges said: whole judgements, how the candidates were shown, scores, and verdicts for two siblings."""
    db.executescript("""
    CREATE TABLE judgements (
        id TEXT PRIMARY KEY,          -- digest of turn, judge and repeat
        node_id TEXT NOT NULL REFERENCES nodes(id) ON DELETE CASCADE, -- the turn's user message
        judge_id TEXT NOT NULL REFERENCES judges(id),
        repeat INTEGER NOT NULL,      -- 0 first; later ones are for the flip rate
        covers TEXT NOT NULL,         -- JSON array: replies that were compared
        complete INTEGER NOT NULL,    -- 0 if a call failed: then it counts for no pair
        cause TEXT,
        at REAL NOT NULL
    );
    CREATE INDEX judgements_by_node ON judgements(node_id, judge_id, repeat);
    CREATE INDEX judgements_by_judge ON judgements(judge_id);
    CREATE TABLE presentations (
        judgement_id TEXT NOT NULL REFERENCES judgements(id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        shown TEXT NOT NULL,          -- JSON array: node ids in the order shown
        call_id TEXT,
        raw TEXT NOT NULL,            -- the judge's answer, word for word
        probabilities TEXT NOT NULL,  -- JSON object
        label TEXT,                   -- read from the answer; NULL if unreadable
        PRIMARY KEY (judgement_id, number)
    ) WITHOUT ROWID;
    CREATE TABLE scores (
        judgement_id TEXT NOT NULL REFERENCES judgements(id) ON DELETE CASCADE,
        node_id TEXT NOT NULL REFERENCES nodes(id) ON DELETE CASCADE,
        unit TEXT NOT NULL,           -- probability, nats or points
        value REAL NOT NULL,
        PRIMARY KEY (judgement_id, node_id)
    ) WITHOUT ROWID;
    CREATE INDEX scores_by_node ON scores(node_id);
    CREATE TABLE verdicts (
        judgement_id TEXT NOT NULL REFERENCES judgements(id) ON DELETE CASCADE,
        first_id TEXT NOT NULL REFERENCES nodes(id) ON DELETE CASCADE, -- of a win: the winner
        second_id TEXT NOT NULL REFERENCES nodes(id) ON DELETE CASCADE,
        outcome TEXT NOT NULL CHECK (outcome IN ('win', 'tie', 'both_bad', 'unstable', 'abstain')),
        margin REAL,                  -- difference of scores, in unit
        unit TEXT,
        PRIMARY KEY (judgement_id, first_id, second_id)
    ) WITHOUT ROWID;
    CREATE INDEX verdicts_by_first ON verdicts(first_id);
    CREATE INDEX verdicts_by_second ON verdicts(second_id);
    """)


@migrations()
def m004_calls(db: Database) -> None:
    """The call log: what was asked of models. Prompts are not kept; a use says how to render its prompt again."""
    db.executescript("""
    CREATE TABLE calls (
        id TEXT PRIMARY KEY,          -- digest of model identity, prompt and request
        kind TEXT NOT NULL CHECK (kind IN ('chat', 'score', 'embed')),
        model_id TEXT NOT NULL REFERENCES models(id),
        request TEXT NOT NULL,        -- JSON: sampling, seed, n, choices, schema digest, digests of scored replies
        messages_digest TEXT NOT NULL,-- over the rendered messages
        prompt_digest TEXT NOT NULL,  -- over the prompt's tokens where the backend sees them
        answer TEXT NOT NULL,         -- JSON
        tokens_in INTEGER,
        tokens_cached INTEGER,        -- of tokens_in, not read again
        tokens_out INTEGER,
        first_token_s REAL,           -- seconds
        seconds REAL NOT NULL,
        attempts TEXT,                -- JSON array of the attempts that failed before the answer came
        at REAL NOT NULL
    );
    CREATE TABLE uses (
        call_id TEXT NOT NULL REFERENCES calls(id),
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        tree_id TEXT NOT NULL,
        node_id TEXT NOT NULL,        -- where the prompt's path ends; the tree for an opening
        role TEXT NOT NULL,
        purpose TEXT NOT NULL,        -- speak, speak.reroll1, judge.0 ...
        prompt_id TEXT NOT NULL REFERENCES prompts(id),
        tail TEXT NOT NULL,           -- JSON: what the prompt's last part was given
        epoch INTEGER NOT NULL DEFAULT 0, -- how often the middle of the path had been cut
        PRIMARY KEY (call_id, run_id, node_id, role, purpose)
    ) WITHOUT ROWID;
    CREATE INDEX uses_by_run ON uses(run_id, role);
    CREATE INDEX uses_by_tree ON uses(tree_id);
    CREATE TABLE failures (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        tree_id TEXT NOT NULL,
        node_id TEXT NOT NULL,
        role TEXT NOT NULL,
        purpose TEXT NOT NULL,
        call_id TEXT NOT NULL,        -- the call that got no answer
        kind TEXT NOT NULL,           -- timeout, unavailable, rate_limited, died, bad_answer ...
        message TEXT NOT NULL,
        attempts TEXT NOT NULL,       -- JSON array
        at REAL NOT NULL,
        resolved_at REAL              -- when what was asked for came after all
    );
    CREATE INDEX failures_by_run ON failures(run_id, kind);
    CREATE INDEX failures_by_call ON failures(call_id);
    """)


@migrations()
def m005_jobs(db: Database) -> None:
    """Who is at work on what, what they were told to do, and what happened: the same for runs and all later jobs."""
    db.executescript("""
    CREATE TABLE locks (
        job_id TEXT PRIMARY KEY,      -- a run's id, or that of another long job
        kind TEXT NOT NULL,           -- run, training, growing ...
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        process_started REAL NOT NULL,-- start time of that process: a reused pid is told apart
        taken_at REAL NOT NULL,
        heartbeat_at REAL NOT NULL,
        socket TEXT                   -- where token deltas can be read, if anywhere
    ) WITHOUT ROWID;
    CREATE TABLE commands (
        id INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        verb TEXT NOT NULL,
        args TEXT NOT NULL,           -- JSON
        asked_by TEXT NOT NULL,
        asked_at REAL NOT NULL,
        state TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'taken', 'done', 'refused')),
        result TEXT,                  -- JSON
        done_at REAL
    );
    CREATE INDEX commands_by_job ON commands(job_id, state);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL,           -- JSON
        at REAL NOT NULL
    );
    CREATE INDEX events_by_job ON events(job_id, seq);
    """)


@migrations()
def m006_views_and_search(db: Database) -> None:
    """Trees, paths and pairs for plain sqlite3, and the full-text index over messages."""
    db.executescript("""
    CREATE VIEW personas AS           -- who each tree was played with, and which split that puts it in
    SELECT t.id AS tree_id, t.run_id, t.profile_id, t.personality_id, p.text AS profile, q.text AS personality,
           CASE WHEN p.split = q.split THEN p.split ELSE 'unused' END AS split
    FROM trees t LEFT JOIN profiles p ON p.id = t.profile_id LEFT JOIN personalities q ON q.id = t.personality_id;

    CREATE VIEW tree_messages AS      -- every message with its marks: the tree, readable
    SELECT n.tree_id, n.turn, n.speaker, n.role, n.text, c.node_id IS NOT NULL AS continued, c.policy,
           n.hinted, n.drift, n.id, n.parent_id
    FROM nodes n LEFT JOIN continued c ON c.node_id = n.id;

    CREATE VIEW paths AS              -- one row a message of each conversation that ends in a leaf
    WITH RECURSIVE up(leaf_id, node_id, steps) AS (
        SELECT id, id, 0 FROM nodes leaf WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE parent_id = leaf.id)
        UNION ALL
        SELECT up.leaf_id, n.parent_id, up.steps + 1 FROM up JOIN nodes n ON n.id = up.node_id
        WHERE n.parent_id IS NOT NULL)
    SELECT up.leaf_id, up.steps, n.tree_id, n.turn, n.speaker, n.role, n.text, n.id
    FROM up JOIN nodes n ON n.id = up.node_id;

    CREATE VIEW current_verdicts AS   -- of each judge, the latest complete judgement that covers both siblings
    SELECT v.*, j.node_id AS turn_id, j.judge_id, g.name AS judge, j.repeat
    FROM verdicts v JOIN judgements j ON j.id = v.judgement_id JOIN judges g ON g.id = j.judge_id
    WHERE j.complete AND NOT EXISTS (
        SELECT 1 FROM judgements k
        WHERE k.node_id = j.node_id AND k.judge_id = j.judge_id AND k.complete AND k.repeat > j.repeat
          AND EXISTS (SELECT 1 FROM json_each(k.covers) WHERE value = v.first_id)
          AND EXISTS (SELECT 1 FROM json_each(k.covers) WHERE value = v.second_id));

    CREATE VIEW pairs AS              -- chosen and rejected under one parent
    SELECT n.tree_id, v.turn_id, v.judge_id, v.judge, v.margin, v.unit,
           v.first_id AS chosen_id, n.text AS chosen, v.second_id AS rejected_id, m.text AS rejected
    FROM current_verdicts v JOIN nodes n ON n.id = v.first_id JOIN nodes m ON m.id = v.second_id
    WHERE v.outcome = 'win' AND n.digest <> m.digest;

    CREATE VIRTUAL TABLE node_words USING fts5(words, content='', tokenize='unicode61 remove_diacritics 2');
    """)


@migrations()
def m007_model_figures(db: Database) -> None:
    """What each model was doing, a row for every stretch of about two seconds in which it had calls."""
    db.executescript("""
    CREATE TABLE model_figures (
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        model TEXT NOT NULL,          -- its name in the run's configuration
        at REAL NOT NULL,             -- Unix seconds: the end of the stretch
        interval_s REAL NOT NULL CHECK (interval_s > 0), -- its length
        answered INTEGER NOT NULL,    -- calls answered in it
        failed INTEGER NOT NULL,      -- calls that got no answer in the end
        retries INTEGER NOT NULL,     -- attempts beyond the first of each call
        permits INTEGER NOT NULL,     -- calls that may be with the model at once, at the end
        held INTEGER NOT NULL,        -- calls with the model, at the end
        queued INTEGER NOT NULL,      -- calls that wait for a permit, at the end
        first_token_median_s REAL,    -- seconds to the first token, over the calls answered that say
        first_token_p95_s REAL,
        prompt_read INTEGER NOT NULL, -- tokens of prompts that were read
        prompt_reused INTEGER NOT NULL, -- tokens of prompts that a cache knew already
        tokens_out INTEGER NOT NULL,  -- tokens written
        tokens_out_per_s REAL GENERATED ALWAYS AS (tokens_out / interval_s) VIRTUAL,
        steps INTEGER,                -- batches decoded; this and what follows is NULL where the backend does not tell
        batch_fill REAL,              -- sequences in a batch, on average
        running INTEGER,              -- sequences at work in the backend, at the end
        waiting INTEGER,              -- sequences in the backend's own queue, at the end
        cells_used INTEGER,           -- tokens in its cache, at the end
        cells INTEGER,                -- tokens that its cache holds
        PRIMARY KEY (run_id, model, at)
    ) WITHOUT ROWID;
    """)


@migrations()
def m008_persona_pool(db: Database) -> None:
    """How the pool of personas grew, what every candidate was held to be, vectors, splits, blocks and draws."""
    db.executescript("""
    CREATE TABLE growings (
        id TEXT PRIMARY KEY,          -- digest of identity and seed
        seed INTEGER NOT NULL,
        identity TEXT NOT NULL,       -- JSON: generators, prompts, sampling, thresholds, embedder, plan, seeds
        operation TEXT NOT NULL,      -- JSON: sizes and budgets, which may change
        base TEXT NOT NULL,           -- JSON object: kind to the ids that stood in the pool when it began
        state TEXT NOT NULL CHECK (state IN ('new', 'running', 'stopped', 'finished', 'failed')),
        reason TEXT,                  -- why it stands in this state, in words
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    );
    CREATE TABLE growing_uses (       -- what `uses` is to a run: why a call was made, and how to render it again
        growing_id TEXT NOT NULL REFERENCES growings(id) ON DELETE CASCADE,
        place TEXT NOT NULL,          -- kind.generation.number, and the candidate's place for a check
        purpose TEXT NOT NULL,        -- grow, or check
        call_id TEXT NOT NULL REFERENCES calls(id),
        prompt_id TEXT NOT NULL REFERENCES prompts(id),
        tail TEXT NOT NULL,           -- JSON: ids of the examples shown, how many were asked for, what was lacking
        PRIMARY KEY (growing_id, place, purpose)
    ) WITHOUT ROWID;
    CREATE INDEX growing_uses_by_call ON growing_uses(call_id);
    CREATE TABLE generations (
        growing_id TEXT NOT NULL REFERENCES growings(id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('profile', 'personality')),
        generation INTEGER NOT NULL,  -- from 0
        asked INTEGER NOT NULL,       -- calls, or draws of the composer
        failed INTEGER NOT NULL,      -- of them, those that got no answer
        candidates INTEGER NOT NULL,
        kept INTEGER NOT NULL,
        lacking TEXT NOT NULL,        -- JSON: what the plan lacked most, as its calls were told
        cause TEXT,                   -- of a failed call, in words
        at REAL NOT NULL,
        PRIMARY KEY (growing_id, kind, generation)
    ) WITHOUT ROWID;
    CREATE TABLE candidates (
        growing_id TEXT NOT NULL REFERENCES growings(id) ON DELETE CASCADE,
        kind TEXT NOT NULL,
        generation INTEGER NOT NULL,
        number INTEGER NOT NULL,      -- the call within its generation
        place INTEGER NOT NULL,       -- the item within its answer
        item_id TEXT NOT NULL,        -- the id it has, or would have, in the pool
        text TEXT NOT NULL,
        model TEXT NOT NULL,          -- name of the generator
        call_id TEXT,                 -- NULL if composed without a model
        reason TEXT,                  -- why it was rejected; NULL if it was kept
        detail TEXT NOT NULL,         -- in words
        nearest_id TEXT,              -- the most similar item it was compared with
        similarity REAL,              -- cosine, -1 to 1; NULL if it was rejected before it was compared
        PRIMARY KEY (growing_id, kind, generation, number, place)
    ) WITHOUT ROWID;
    CREATE INDEX candidates_by_item ON candidates(item_id);
    CREATE TABLE vectors (
        embedder TEXT NOT NULL,
        item_id TEXT NOT NULL,        -- of a profile, personality or candidate
        vector BLOB NOT NULL,         -- float32, little-endian, of length 1
        PRIMARY KEY (embedder, item_id)
    ) WITHOUT ROWID;
    CREATE TABLE thresholds (         -- from which similarity on two items say the same; one embedder a pool
        kind TEXT PRIMARY KEY,
        embedder TEXT NOT NULL,
        threshold REAL NOT NULL CHECK (threshold > 0 AND threshold <= 1),
        measured TEXT NOT NULL,       -- JSON: precision, recall and where they come from; NULLs if set by hand
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE splits (
        id TEXT PRIMARY KEY,          -- digest of what follows
        seed INTEGER NOT NULL,
        asked TEXT NOT NULL,          -- JSON: how many of each kind
        held_out TEXT NOT NULL,       -- JSON array of ids
        near TEXT NOT NULL,           -- JSON: thresholds, and what was done with near items
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE blocks (             -- items that say the same as a held-out one: nothing trains on them
        item_id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        held_out_id TEXT NOT NULL,    -- the nearest held-out item
        similarity REAL NOT NULL,
        embedder TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE draws (
        id TEXT PRIMARY KEY,          -- digest of seed, count and the pools
        seed INTEGER NOT NULL,
        count INTEGER NOT NULL,
        split TEXT NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE draw_pairs (
        draw_id TEXT NOT NULL REFERENCES draws(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        profile_id TEXT NOT NULL REFERENCES profiles(id),
        personality_id TEXT NOT NULL REFERENCES personalities(id),
        PRIMARY KEY (draw_id, position)
    ) WITHOUT ROWID;

    CREATE VIEW pool AS               -- both halves in one list; a blocked item is in neither split
    SELECT i.id, i.kind, i.text, i.pronouns, i.source, i.added_at,
           CASE WHEN b.item_id IS NOT NULL AND i.split = 'train' THEN 'blocked' ELSE i.split END AS split
    FROM (SELECT id, 'profile' AS kind, text, pronouns, split, source, added_at FROM profiles
          UNION ALL SELECT id, 'personality', text, pronouns, split, source, added_at FROM personalities) i
    LEFT JOIN blocks b ON b.item_id = i.id;

    DROP VIEW personas;
    CREATE VIEW personas AS           -- who each tree was played with, and which split that puts it in
    SELECT t.id AS tree_id, t.run_id, t.profile_id, t.personality_id, p.text AS profile, q.text AS personality,
           CASE WHEN p.split <> q.split
                     OR t.profile_id IN (SELECT item_id FROM blocks WHERE p.split = 'train')
                     OR t.personality_id IN (SELECT item_id FROM blocks WHERE q.split = 'train')
                THEN 'unused' WHEN p.split = q.split THEN p.split ELSE 'unused' END AS split
    FROM trees t LEFT JOIN profiles p ON p.id = t.profile_id LEFT JOIN personalities q ON q.id = t.personality_id;
    """)


@migrations()
def m009_trainings(db: Database) -> None:
    """What is learnt: trainings, how they went, and the adapters that came of them."""
    db.executescript("""
    CREATE TABLE trainings (
        id TEXT PRIMARY KEY,          -- digest of configuration (base and start by content, and the seed) and data
        kind TEXT NOT NULL CHECK (kind IN ('sft', 'dpo')),
        name TEXT NOT NULL,           -- for lists
        configuration TEXT NOT NULL,  -- JSON: the frozen half, resolved; base and start are digests
        data_digest TEXT NOT NULL,    -- over every text, target, pair and side that is trained on
        base TEXT NOT NULL,           -- digest of the base's weights
        start_adapter TEXT,           -- digest of the adapter that it goes on from; NULL from the base
        selection TEXT NOT NULL,      -- JSON: what of the store and of which files is trained on
        lineage TEXT NOT NULL,        -- JSON: from the base to this training, with the people whose words it sees
        operation TEXT NOT NULL,      -- JSON: the half that may change: where base and start lie, device, checkpoints
        state TEXT NOT NULL CHECK (state IN ('new', 'running', 'paused', 'stopped', 'finished', 'failed')),
        reason TEXT,                  -- why it stands in this state, in words
        result TEXT,                  -- folder of a model all of whose weights were trained, beside the store
        created_at REAL NOT NULL,     -- Unix seconds
        updated_at REAL NOT NULL
    );
    CREATE TABLE training_points (
        training_id TEXT NOT NULL REFERENCES trainings(id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('training', 'evaluation')), -- a stretch of steps, or what was held back
        step INTEGER NOT NULL,        -- optimiser steps until then
        epoch REAL NOT NULL,          -- passes over the data until then
        loss REAL,                    -- mean of the stretch; NULL if it was no number
        margin REAL,                  -- of a preference training, as all up to rejected_reward: mean of the pairs
        accuracy REAL,                -- share of pairs whose chosen reply has the higher reward
        chosen_reward REAL,           -- beta times nats above the reference
        rejected_reward REAL,
        learning_rate REAL,
        gradient REAL,                -- its norm before it is cut
        tokens INTEGER NOT NULL,      -- computed in the stretch, shared prefixes once
        tokens_per_s REAL NOT NULL,
        at REAL NOT NULL,             -- Unix seconds
        PRIMARY KEY (training_id, kind, step)
    ) WITHOUT ROWID;
    CREATE TABLE adapters (
        id TEXT PRIMARY KEY,          -- digest of the files: weights, configuration, lineage
        training_id TEXT NOT NULL REFERENCES trainings(id),
        base TEXT NOT NULL,           -- digest of the base's weights
        start_adapter TEXT,           -- digest of the adapter that its training went on from
        path TEXT NOT NULL,           -- its folder, beside the store
        rank INTEGER NOT NULL,
        lineage TEXT NOT NULL,        -- JSON, as it lies beside the weights
        metrics TEXT NOT NULL,        -- JSON: steps, and the last loss, margin and accuracy, measured too
        added_at REAL NOT NULL
    );
    CREATE INDEX adapters_by_training ON adapters(training_id);
    """)


@migrations()
def m010_benchmarks(db: Database) -> None:
    """Which runs are measurements: models under test that talked to the same people under the same judge."""
    db.executescript("""
    CREATE TABLE benchmarks (
        id TEXT PRIMARY KEY,          -- digest of all that its models share: people, turns, user, judges, seed
        name TEXT NOT NULL,
        judge TEXT NOT NULL,          -- the judge whose scores are shown unless another one is named
        turns INTEGER NOT NULL,
        at REAL NOT NULL              -- Unix seconds
    );
    CREATE TABLE benchmark_runs (
        benchmark_id TEXT NOT NULL REFERENCES benchmarks(id),
        run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        model TEXT NOT NULL,          -- what the configuration calls the model under test
        how TEXT NOT NULL,            -- deploy, or the baseline that it is
        lineage TEXT NOT NULL,        -- what is known of the data it was trained on; unknown
        PRIMARY KEY (benchmark_id, run_id)
    ) WITHOUT ROWID;
    """)


@migrations()
def m011_rounds(db: Database) -> None:
    """Playing, training and measuring in turn: which steps were done, by which command line, and what came of them."""
    db.executescript("""
    CREATE TABLE rounds (
        id TEXT PRIMARY KEY,          -- digest of the configuration
        name TEXT NOT NULL,           -- for lists
        configuration TEXT NOT NULL,  -- JSON: the frozen half, with what its files say
        operation TEXT NOT NULL,      -- JSON: the half that may change: the file, how many rounds, when to stop
        state TEXT NOT NULL CHECK (state IN ('new', 'running', 'stopped', 'finished', 'failed')),
        reason TEXT,                  -- why it stands in this state, in words
        created_at REAL NOT NULL,     -- Unix seconds
        updated_at REAL NOT NULL
    );
    CREATE TABLE round_steps (
        rounds_id TEXT NOT NULL REFERENCES rounds(id) ON DELETE CASCADE,
        round INTEGER NOT NULL,       -- 0: what is measured before anything is trained
        place INTEGER NOT NULL,       -- within the round, from 0
        kind TEXT NOT NULL CHECK (kind IN ('simulate', 'judge', 'lint', 'sft', 'dpo', 'benchmark')),
        words TEXT NOT NULL,          -- JSON array: the command line that does it
        state TEXT NOT NULL CHECK (state IN ('running', 'done', 'stopped', 'failed')),
        reason TEXT,                  -- why it stands in this state, in words: the last lines of a command that failed
        made TEXT,                    -- id of the run, judge, training or benchmark; NULL for lint, or not known yet
        figures TEXT NOT NULL,        -- JSON: what came of it
        host TEXT,                    -- where its process is, or was
        pid INTEGER,
        process_started REAL,         -- in the kernel's clock, so that a reused pid is told from it
        attempts INTEGER NOT NULL,
        took_s REAL NOT NULL,         -- seconds of all attempts that were waited for
        began_at REAL NOT NULL,       -- Unix seconds, of the first attempt
        ended_at REAL,                -- NULL while it is at work
        PRIMARY KEY (rounds_id, round, place)
    ) WITHOUT ROWID;
    """)


@migrations()
def m012_situations(db: Database) -> None:
    """What brought each tree's person to talk."""
    db.executescript("""
    ALTER TABLE trees ADD COLUMN situation TEXT; -- JSON: name, steps, turn of the change; NULL if none
    """)


@migrations()
def m013_guard_and_choice(db: Database) -> None:
    """How the pool's embedder is opened again, and from where on the guard of held-out items takes two for one."""
    db.executescript("""
    ALTER TABLE thresholds ADD COLUMN guard REAL;  -- at most threshold; NULL: the guard takes that one
    ALTER TABLE thresholds ADD COLUMN choice TEXT; -- JSON: name, folder or address, and a configured model's entry
    """)
