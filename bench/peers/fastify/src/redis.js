// One connection to Redis for the cache and the rate limits; commands of the same turn travel together.
import Redis from 'ioredis'

export function connectRedis(url) {
  const options = { enableAutoPipelining: true, maxRetriesPerRequest: 1, commandTimeout: 500 }
  return url.startsWith('unix://') ? new Redis({ ...options, path: url.slice('unix://'.length) }) : new Redis(url, options)
}
