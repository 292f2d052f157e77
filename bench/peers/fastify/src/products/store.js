// The products table through Knex.
import { NotFound } from '../errors.js'
import { columns } from './schemas.js'

export class ProductStore {
  constructor(knex) {
    this.knex = knex
  }

  async get(id) {
    const row = await this.knex('products').where('id', id).first(columns)
    if (!row) throw new NotFound()
    return row
  }

  async list({ page, limit, sort, category_id, status, 'price[gte]': priceFrom, 'price[lt]': priceBelow }) {
    const query = this.knex('products').select(columns)
    if (category_id !== undefined) query.where('category_id', category_id)
    if (status !== undefined) query.where('status', status)
    if (priceFrom !== undefined) query.where('price', '>=', priceFrom)
    if (priceBelow !== undefined) query.where('price', '<', priceBelow)
    let direction = 'asc'
    for (const term of sort) {
      direction = term.startsWith('-') ? 'desc' : 'asc'
      query.orderBy(term.replace(/^-/, ''), direction)
    }
    // One row more than asked for tells whether there is another page; the key makes the order total.
    const rows = await query
      .orderBy('id', direction)
      .limit(limit + 1)
      .offset((page - 1) * limit)
    const hasMore = rows.length > limit
    if (hasMore) rows.pop()
    return { data: rows, meta: { limit, page, has_more: hasMore } }
  }

  async create(body) {
    const [row] = await this.knex('products').insert(forDatabase(body)).returning(columns)
    return row
  }

  async patch(id, body) {
    const [row] = await this.knex('products').where('id', id).update(forDatabase(body)).returning(columns)
    if (!row) throw new NotFound()
    return row
  }

  async remove(id) {
    if (!(await this.knex('products').where('id', id).delete())) throw new NotFound()
  }
}

function forDatabase(body) {
  return body.attributes === undefined ? body : { ...body, attributes: JSON.stringify(body.attributes) }
}
