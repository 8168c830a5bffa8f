"""What it costs to send something: the one table of measured figures, and the choices that follow from it.

Measured with Ray 2.60 on one virtual machine of two cores, NumPy 2.4, medians; take the ratios, not the absolute
values. Small calls and objects of 500 B to 110 KB went there and back, large ones of 1 to 32 MB from worker to worker
by reference. What is merged came by reference as two arrays, of 12.8 and 6.4 MB, into memory that was used before.

Which way a value goes follows from its size and from who reads it, never from the number of workers: a plan serves any
number of them, and no way changes the order of additions.

*Large sums.* A sum that every worker needs whole is sent whole by each to all (flat): W times its bytes are merged on
every worker, all read without a copy. To send each worker a part and to gather the sums of the parts would merge its
bytes once, but puts W more objects on every worker and takes one more hop of 0.8 ms: for 4 MB and 8 workers some 4 ms
are saved and 8 paid, and with two workers nothing is saved. The exchange of a step with weights of 1, 4 and 0.04 MB
took 2.5 ms of 2.9 s. A sum that is only read in cuts goes straight to the owners of its shards (scattered): each worker
sends and merges only what an owner needs, with no second hop.
"""

from __future__ import annotations

OBJECT = 2.5e-3  # seconds for a value that is too large to travel inside a call: 110 KB took 3.2 ms, a call alone 0.7
OBJECT_MORE = 1e-3  # for each further one of a call
BYTE_INLINE = 6.7e-9  # inside a call: 90 KB took 1.3 ms
BYTE_MERGE = 0.13e-9  # read there and added: 19 MB took 2.6 ms
INLINE_LIMIT = 100_000  # bytes of an argument or result from which on Ray makes an object of it
MANY = 32  # workers up to which small values are to be cheap


def _power(n: float) -> int:
    return 1 << (int(n).bit_length() - 1)


# A small value goes from each worker to the driver, and from there to all: W + 1 times for one object each.
# The bytes of a value up to which it travels inside the reply:
SMALL = _power(OBJECT / (BYTE_INLINE * (MANY + 1)))
# Of all such values of a stage, with room for what else is in the call:
SMALL_TOTAL = INLINE_LIMIT // 2 // SMALL * SMALL

# Scattered, each worker puts an object for each other one, instead of one for all; and merges 1/W of the bytes. For
# each worker more that costs one object and saves one merge of the whole sum.
# The bytes of a sum from which on its parts go to their owners:
SCATTERED = _power(OBJECT_MORE / BYTE_MERGE)
# Rows that each come from one worker are not added, but all of them would cross to every worker, and lie there. Over a
# network of 1 GB/s and with three owners of their shards that costs what one more object does, from these bytes on:
ROWS = SCATTERED // 4
