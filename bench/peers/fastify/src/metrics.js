// Prometheus: the counters and histograms of the design document, and GET /metrics.
import fp from 'fastify-plugin'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export default fp(async function metrics(app) {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const registers = [registry]
  const requests = new Counter({
    name: 'http_requests_total',
    help: 'Requests answered',
    labelNames: ['method', 'route', 'status'],
    registers,
  })
  const seconds = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'From the head of a request to the end of its answer',
    labelNames: ['method', 'route'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers,
  })
  const errors = new Counter({ name: 'errors_total', help: 'Answers that are errors', labelNames: ['type'], registers })
  app.decorate('meters', {
    cacheHits: new Counter({ name: 'cache_hits_total', help: 'Answers out of the cache', registers }),
    cacheMisses: new Counter({ name: 'cache_misses_total', help: 'Answers that the cache did not have', registers }),
    watchPool: (pool) =>
      new Gauge({
        name: 'db_pool_active_connections',
        help: 'Connections at work',
        registers,
        collect() {
          this.set(pool.numUsed())
        },
      }),
  })

  // Children are looked up once for each route, method and status: labels() hashes its arguments each time.
  const children = new Map()
  function childrenOf(method, route, status) {
    const key = `${method} ${route} ${status}`
    let found = children.get(key)
    if (!found) {
      found = { count: requests.labels(method, route, status), time: seconds.labels(method, route) }
      children.set(key, found)
    }
    return found
  }

  app.addHook('onResponse', async (request, reply) => {
    const child = childrenOf(request.method, request.routeOptions.url ?? 'none', reply.statusCode)
    child.count.inc()
    child.time.observe(reply.elapsedTime / 1000)
    if (reply.statusCode >= 400) errors.labels(String(reply.statusCode)).inc()
  })

  app.get('/metrics', { config: { public: true, rateLimit: false } }, async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  )
})
