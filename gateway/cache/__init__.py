"""Answers kept for a while, in memory or in Redis, and never after a write that was acknowledged.

    keys          a plan and a grant -> a readable name, and the whole of what it stands for
    store         what a store is; the memory of one process, or Redis for many
    dependencies  which tables an answer is made from, and which ones a write changes
    keeper        whether this process may trust what the shared store says now
    listener      the cache's one connection to PostgreSQL
    cache         `Cache`: what the pipeline uses

`docs/caching.md` says what is promised, and proves it.
"""
