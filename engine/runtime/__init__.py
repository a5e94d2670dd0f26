"""The shape that both components share: the machine, its loop, folds, retries, lock renewal, observation."""
