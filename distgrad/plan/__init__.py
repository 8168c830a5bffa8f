"""From pending nodes to programs: capture, levels and stages, fusing."""
