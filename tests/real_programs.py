"""The programs that the planner writes for samples of the ops, and their gradients."""

from __future__ import annotations

from distgrad.session import door


def collected(samples: int) -> list[bytes]:
    """Those of tests/scenes.py, and with `samples` those of so many samples of ops, forward and backward."""
    from scenes import PROGRAMS  # noqa: PLC0415 - these run what they collect

    found = dict.fromkeys(PROGRAMS)
    if samples:
        from op_calls import CUTS, calls  # noqa: PLC0415
        from op_checks import outcomes  # noqa: PLC0415
        from recorder import Recorder, Watched  # noqa: PLC0415

        from distgrad.ops.table import OPS  # noqa: PLC0415

        every = [call for name in sorted(OPS) for call in calls(name)[:2]]
        for n, call in enumerate(every[: samples or None]):
            recorder = Recorder(2, Watched)
            door.shutdown()
            door.attach(recorder, inline_bytes=0, shard_bytes=64)
            try:
                outcomes([call], CUTS[sorted(CUTS)[n % len(CUTS)]], second=False)
            except Exception:  # some need more than a call
                continue
            finally:
                for worker in recorder.objects:
                    found.update(dict.fromkeys(scene.program for scene in worker.scenes))
                door.shutdown()
    return list(found)
