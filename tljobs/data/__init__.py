"""From files and labels to a published dataset: sources -> decode -> split -> prepare -> shards."""
