// Tokens by JWKS: verified tokens are kept by fast-jwt's own cache until they expire, keys by get-jwks.
import fp from 'fastify-plugin'
import { createVerifier } from 'fast-jwt'
import buildGetJwks from 'get-jwks'
import { Unauthorized } from './errors.js'

export default fp(async function auth(app, { jwksUrl, issuer, audience }) {
  const jwks = buildGetJwks({ jwksPath: jwksUrl.pathname, ttl: 5 * 60 * 1000 })
  const verify = createVerifier({
    key: ({ header }) => jwks.getPublicKey({ domain: jwksUrl.origin, kid: header.kid, alg: header.alg }),
    algorithms: ['RS256', 'ES256', 'EdDSA'],
    allowedIss: issuer,
    allowedAud: audience,
    requiredClaims: ['sub', 'exp'],
    cache: 1000,
  })

  app.decorateRequest('user', null)
  app.addHook('onRequest', async (request) => {
    if (request.routeOptions.config.public) return
    const header = request.headers.authorization
    if (!header?.startsWith('Bearer ')) throw new Unauthorized('A token is needed.')
    try {
      request.user = await verify(header.slice(7))
    } catch (error) {
      throw new Unauthorized('The token is not valid.', { cause: error })
    }
  })
})

/** A route's guard: the caller must hold `role`. */
export function requireRole(role) {
  return async (request) => {
    const roles = request.user.roles
    if (!(Array.isArray(roles) ? roles.includes(role) : roles === role)) throw new Unauthorized('Not with this role.', { status: 403 })
  }
}
