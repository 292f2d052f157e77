// The five operations on /products.
import fastJson from 'fast-json-stringify'
import { requireRole } from '../auth.js'
import { ProductStore } from './store.js'
import * as schemas from './schemas.js'

const JSON_TYPE = 'application/json; charset=utf-8'
const writeRow = fastJson(schemas.rowResponse)
const writeList = fastJson(schemas.listResponse)

export async function productRoutes(app) {
  const store = new ProductStore(app.knex)
  const { cache } = app
  app.addHook('preHandler', requireRole('admin'))

  app.get('/:id', { schema: { params: schemas.params, response: { 200: schemas.rowResponse } } }, async (request, reply) => {
    const { id } = request.params
    if (!cache.isOn) return { data: await store.get(id) }
    const key = `products:id=${id}`
    const found = await cache.read(key)
    if (found !== null) return reply.type(JSON_TYPE).header('x-cache', 'hit').send(found)
    const json = writeRow({ data: await store.get(id) })
    await cache.storeRow(key, json)
    return reply.type(JSON_TYPE).header('x-cache', 'miss').send(json)
  })

  app.get('/', { schema: { querystring: schemas.listQuery, response: { 200: schemas.listResponse } } }, async (request, reply) => {
    if (!cache.isOn) return store.list(request.query)
    const key = `products:${listKey(request.query)}`
    const found = await cache.read(key)
    if (found !== null) return reply.type(JSON_TYPE).header('x-cache', 'hit').send(found)
    const json = writeList(await store.list(request.query))
    await cache.storeList('products', key, json)
    return reply.type(JSON_TYPE).header('x-cache', 'miss').send(json)
  })

  app.post('/', { schema: { body: schemas.createBody, response: { 201: schemas.rowResponse } } }, async (request, reply) => {
    const row = await store.create(request.body)
    await cache.invalidate('products')
    return reply.code(201).header('location', `/api/v1/products/${row.id}`).send({ data: row })
  })

  const patch = { schema: { params: schemas.params, body: schemas.patchBody, response: { 200: schemas.rowResponse } } }
  app.patch('/:id', patch, async (request) => {
    const row = await store.patch(request.params.id, request.body)
    await cache.invalidate('products', row.id)
    return { data: row }
  })

  app.delete('/:id', { schema: { params: schemas.params } }, async (request, reply) => {
    await store.remove(request.params.id)
    await cache.invalidate('products', request.params.id)
    return reply.code(204).send()
  })
}

function listKey(query) {
  return Object.entries(query)
    .map(([name, value]) => `${name}=${value}`)
    .sort()
    .join(':')
}
