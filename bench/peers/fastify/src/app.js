// The application: what every request passes, and the routes.
import { randomUUID } from 'node:crypto'
import Fastify, { LogController } from 'fastify'
import pino from 'pino'
import rateLimit from '@fastify/rate-limit'
import auth from './auth.js'
import cache from './cache.js'
import database from './database.js'
import metrics from './metrics.js'
import { notFound, toProblem } from './errors.js'
import { productRoutes } from './products/routes.js'
import { connectRedis } from './redis.js'

export async function buildApp(config) {
  const app = Fastify({
    // Lines are gathered and written together: what Pino recommends for throughput.
    loggerInstance: pino(
      { level: config.logLevel, base: { service: config.serviceName }, timestamp: pino.stdTimeFunctions.isoTime },
      pino.destination({ dest: 1, sync: false, minLength: 4096 }),
    ),
    // One line a request, below, in place of Fastify's two.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    genReqId: (request) => request.headers['x-request-id'] ?? randomUUID(),
    keepAliveTimeout: 30_000,
  })

  app.setErrorHandler((error, request, reply) => {
    const problem = toProblem(error)
    if (problem.status >= 500) request.log.error({ err: error })
    return reply.code(problem.status).send(problem.body)
  })
  app.setNotFoundHandler((_request, reply) => reply.code(404).send(notFound('There is no such route.').body))

  // Zod checks what comes in; fast-json-stringify (Fastify's own, by JSON Schema) writes what goes out.
  app.setValidatorCompiler(({ schema }) => (data) => {
    const result = schema.safeParse(data)
    return result.success ? { value: result.data } : { error: result.error }
  })

  const redis = connectRedis(config.redisUrl)
  app.addHook('onClose', () => redis.quit())

  await app.register(metrics)
  await app.register(database, config)
  await app.register(cache, { redis, ttlSeconds: config.cacheTtlSeconds })
  await app.register(auth, config.auth)
  await app.register(rateLimit, {
    redis,
    max: config.rateLimitPerMinute,
    timeWindow: '1 minute',
    skipOnError: true,
    errorResponseBuilder: (_request, context) => ({ statusCode: 429, code: 'RATE_LIMITED', message: `Try again in ${context.after}.` }),
  })

  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  app.addHook('onResponse', async (request, reply) => {
    request.log.info({
      method: request.method,
      route: request.routeOptions.url,
      status: reply.statusCode,
      userId: request.user?.sub,
      ms: reply.elapsedTime,
    })
  })

  app.get('/health/live', { config: { public: true, rateLimit: false } }, async () => ({ status: 'ok' }))
  app.register(productRoutes, { prefix: '/api/v1/products' })
  return app
}
