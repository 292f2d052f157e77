// Starts the service; SIGINT and SIGTERM stop it in order.
import { buildApp } from './app.js'
import { readConfig } from './config.js'

const config = readConfig(process.env)
const app = await buildApp(config)

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => app.close().then(() => process.exit(0)))
}

await app.listen({ host: config.host, port: config.port })
