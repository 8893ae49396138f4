"""The order of the gallery: what losses do, how to train with them, how to measure what comes of it."""

from pathlib import Path

ORDER = [
    "plot_features",
    "plot_epochs_animation",
    "plot_logit_against_angle",
    "plot_mix_with_miner",
    "plot_miners_as_weights",
    "plot_sampler_effect",
    "plot_sampled_classes",
    "plot_resume",
    "plot_two_processes",
    "plot_export_and_reload",
    "plot_pml_trainer",
    "train_with_accelerate",
    "train_with_lightning",
    "plot_evaluate_arrays",
    "plot_ties_and_intervals",
    "plot_roc_and_threshold",
    "plot_hardest_mistakes",
    "plot_groups",
    "plot_few_shot_and_clusters",
]


def position(filename: str) -> int:
    """Where an example stands."""
    return ORDER.index(Path(filename).stem)
