// Answers in Redis, gone when a row of their table is written.
//
// A row is `products:id=42`. The keys of lists are kept in a set, so that a write can drop them without scanning, and a hit
// costs a single GET. Redis away: requests go to the database.
import fp from 'fastify-plugin'

export default fp(async function cache(app, { redis, ttlSeconds }) {
  const { cacheHits, cacheMisses } = app.meters
  const isOn = ttlSeconds > 0

  async function quietly(work) {
    try {
      return await work()
    } catch (error) {
      app.log.warn({ err: error }, 'cache')
      return null
    }
  }

  app.decorate('cache', {
    isOn,
    /** The stored JSON, or null. */
    async read(key) {
      const found = await quietly(() => redis.get(key))
      ;(found === null ? cacheMisses : cacheHits).inc()
      return found
    },
    async storeRow(key, json) {
      await quietly(() => redis.set(key, json, 'EX', ttlSeconds))
    },
    async storeList(table, key, json) {
      await quietly(() => Promise.all([redis.set(key, json, 'EX', ttlSeconds), redis.sadd(`${table}:lists`, key)]))
    },
    /** Drops a row's answer, and every list's of its table. */
    async invalidate(table, id) {
      if (!isOn) return
      await quietly(async () => {
        const index = `${table}:lists`
        const lists = await redis.smembers(index)
        const keys = id === undefined ? lists : [`${table}:id=${id}`, ...lists]
        await Promise.all([keys.length ? redis.unlink(...keys) : 0, lists.length ? redis.srem(index, ...lists) : 0])
      })
    },
  })
})
