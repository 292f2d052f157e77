// Settings out of the environment, checked once at the start.
import { z } from 'zod'

const schema = z.object({
  HOST: z.string().default('127.0.0.1'),
  PORT: z.coerce.number().int(),
  DATABASE_URL: z.string(),
  DATABASE_POOL_MIN: z.coerce.number().int().default(5),
  DATABASE_POOL_MAX: z.coerce.number().int().default(20),
  DATABASE_STATEMENT_TIMEOUT_SECONDS: z.coerce.number().default(5),
  REDIS_URL: z.string(),
  CACHE_TTL_SECONDS: z.coerce.number().default(60),
  RATE_LIMIT_PER_MINUTE: z.coerce.number().int().default(100),
  AUTH_JWKS_URL: z.string().url(),
  AUTH_ISSUER: z.string(),
  AUTH_AUDIENCE: z.string(),
  LOG_LEVEL: z.string().default('info'),
  SERVICE_NAME: z.string().default('fastify'),
})

export function readConfig(environment) {
  const env = schema.parse(environment)
  return {
    host: env.HOST,
    port: env.PORT,
    databaseUrl: env.DATABASE_URL,
    pool: { min: env.DATABASE_POOL_MIN, max: env.DATABASE_POOL_MAX },
    statementTimeoutMs: env.DATABASE_STATEMENT_TIMEOUT_SECONDS * 1000,
    redisUrl: env.REDIS_URL,
    cacheTtlSeconds: env.CACHE_TTL_SECONDS,
    rateLimitPerMinute: env.RATE_LIMIT_PER_MINUTE,
    auth: { jwksUrl: new URL(env.AUTH_JWKS_URL), issuer: env.AUTH_ISSUER, audience: env.AUTH_AUDIENCE },
    logLevel: env.LOG_LEVEL,
    serviceName: env.SERVICE_NAME,
  }
}
