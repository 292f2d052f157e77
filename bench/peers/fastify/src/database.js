// Knex over a pg pool; int8 comes as a number, numeric as exact text.
import fp from 'fastify-plugin'
import Knex from 'knex'
import pg from 'pg'

pg.types.setTypeParser(pg.types.builtins.INT8, Number)

export default fp(async function database(app, { databaseUrl, pool, statementTimeoutMs, serviceName }) {
  const knex = Knex({
    client: 'pg',
    connection: { ...parseUrl(databaseUrl), statement_timeout: statementTimeoutMs, application_name: serviceName },
    pool: { ...pool, idleTimeoutMillis: 30_000 },
    acquireConnectionTimeout: 1000,
  })
  app.meters.watchPool(knex.client.pool)
  app.decorate('knex', knex)
  app.addHook('onClose', () => knex.destroy())
})

/** `postgresql://user:password@host:port/database`, and the form with `?host=` for a Unix socket. */
function parseUrl(text) {
  const url = new URL(text.replace('@/', '@localhost/'))
  return {
    host: url.searchParams.get('host') ?? url.hostname,
    port: Number(url.port || 5432),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password) || undefined,
    database: url.pathname.slice(1),
  }
}
