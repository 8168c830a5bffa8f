"""Workers in Ray actors: the only part of distgrad that imports Ray.

`start` joins a cluster, or starts a Ray on this machine, and returns a `RayTransport`. The folder stands at the top of
the repository; a link brings it into the package as `distgrad.cluster`.

What a cluster needs: the same Python, Ray, NumPy and distgrad on every node, and a node of the cluster on the machine
of the driver (`ray start --address=...`, or submit the program with `ray job submit`). Where distgrad is not
installed on the nodes, it can travel with the program: `ray.init(address, runtime_env={"py_modules": [distgrad]})`
before `distgrad.init()`, or the same in `ray job submit --runtime-env-json`.

Who may connect: Ray's ports are open to the network, so a local Ray asks for a token that only this process and its
workers know, unless `RAY_AUTH_MODE` is set. A cluster is asked whether it wants a token; where it does, Ray looks for
one in `RAY_AUTH_TOKEN`, in the file `RAY_AUTH_TOKEN_PATH`, and in its own file in the home folder.
"""

from . import settings  # noqa: F401 - comes first: it sets what Ray reads when it is imported
from .launch import start
from .transport import RayTransport

__all__ = ["RayTransport", "start"]
