// What comes in (Zod) and what goes out (JSON Schema, which Fastify compiles into a serialiser).
import { z } from 'zod'

const money = z.union([z.string(), z.number()]).transform(String).pipe(z.string().regex(/^\d{1,10}(\.\d{1,2})?$/))
const whole = z.coerce.number().int()

const writable = {
  category_id: z.number().int().positive(),
  sku: z.string().min(3).max(32).regex(/^[A-Z0-9-]+$/),
  name: z.string().min(1).max(200),
  description: z.string().max(10_000),
  status: z.enum(['draft', 'active', 'archived']),
  price: money,
  currency: z.string().regex(/^[A-Z]{3}$/),
  stock: z.number().int().min(0),
  rating: z.number().min(0).max(5).nullable(),
  tags: z.array(z.string()),
  attributes: z.record(z.string(), z.unknown()),
}

export const createBody = z
  .strictObject(writable)
  .partial()
  .required({ category_id: true, sku: true, name: true, price: true, currency: true })

export const patchBody = z.strictObject(writable).partial()

export const params = z.object({ id: whole.positive() })

export const sortable = ['id', 'name', 'price', 'stock', 'rating', 'created_at', 'updated_at']

export const listQuery = z.strictObject({
  page: whole.min(1).max(5000).default(1),
  limit: whole.min(1).max(100).default(20),
  sort: z
    .string()
    .default('-created_at')
    .transform((text) => text.split(','))
    .pipe(z.array(z.string().refine((term) => sortable.includes(term.replace(/^-/, '')), 'not a field to sort by'))),
  category_id: whole.optional(),
  status: writable.status.optional(),
  'price[gte]': money.optional(),
  'price[lt]': money.optional(),
})

export const columns = [
  'id',
  ...Object.keys(writable),
  'created_at',
  'updated_at',
]

const product = {
  type: 'object',
  properties: {
    id: { type: 'integer' },
    category_id: { type: 'integer' },
    sku: { type: 'string' },
    name: { type: 'string' },
    description: { type: 'string' },
    status: { type: 'string' },
    price: { type: 'string' },
    currency: { type: 'string' },
    stock: { type: 'integer' },
    rating: { type: 'number', nullable: true },
    tags: { type: 'array', items: { type: 'string' } },
    attributes: { type: 'object', additionalProperties: true },
    created_at: { type: 'string', format: 'date-time' },
    updated_at: { type: 'string', format: 'date-time' },
  },
}

export const rowResponse = { type: 'object', properties: { data: product } }

export const listResponse = {
  type: 'object',
  properties: {
    data: { type: 'array', items: product },
    meta: {
      type: 'object',
      properties: { limit: { type: 'integer' }, page: { type: 'integer' }, has_more: { type: 'boolean' } },
    },
  },
}
