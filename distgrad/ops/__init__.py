"""The ops: one file for each family, each with its gradient beside it. `base` says how to add one."""
