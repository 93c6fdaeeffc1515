"""Names of the migrations that this version knows, in order: what a store is compared with when it is opened.

They stand apart from `trees.migrations` so that opening an up-to-date store does not load sqlite-utils; a test holds
the two together.
"""

MIGRATIONS = (
    "m001_people_prompts_models",
    "m002_runs_and_trees",
    "m003_judging",
    "m004_calls",
    "m005_jobs",
    "m006_views_and_search",
    "m007_model_figures",
    "m008_persona_pool",
    "m009_trainings",
    "m010_benchmarks",
    "m011_rounds",
    "m012_situations",
    "m013_guard_and_choice",
)
