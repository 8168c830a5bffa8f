"""From pending nodes to programs: capture, passes, stages, fusing."""
