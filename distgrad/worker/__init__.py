"""Workers: a store of shards, a pool of memory, programs run shard by shard and tile by tile. No Ray here."""
