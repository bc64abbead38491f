"""The dashboard of a store: runs, one run, predictions. `python -m dashboard` or `tljobs dashboard` opens it."""
