"""An experiment: config, datasets, first stage, ranking, evaluation, and the files of a run."""
