// Load for /api/v1/products, at a steady rate of requests that does not wait for answers (an open loop).
//
//   k6 run -e BASE_URL=http://127.0.0.1:8000 -e SCENARIO=mixed -e RATE=100 -e DURATION=30s bench/k6/products.js
//
// SCENARIO  point, list, sorted, create, patch, or mixed: 80 % point reads, 15 % lists, 5 % writes
// RATE      requests a second;  DURATION  after a second of warm-up
// TOKEN     a bearer token of a role that may read and write products, if the service wants one
// ROWS, CATEGORIES   keys are drawn from 1 to these
// P99_MS    with it, k6 ends with 99 if p99 is above, any request failed, or any could not be started in time
import http from 'k6/http'
import exec from 'k6/execution'
import { Counter } from 'k6/metrics'

const env = (name, otherwise) => __ENV[name] || otherwise
const rate = Number(env('RATE', '100'))
const rows = Number(env('ROWS', '10000'))
const categories = Number(env('CATEGORIES', '50'))
const products = `${env('BASE_URL', 'http://127.0.0.1:8000')}/api/v1/products`
const headers = { 'Content-Type': 'application/json' }
if (__ENV.TOKEN) headers.Authorization = `Bearer ${__ENV.TOKEN}`

const hits = new Counter('cache_hits')
const marked = new Counter('cache_answers')

const load = {
  executor: 'constant-arrival-rate',
  exec: env('SCENARIO', 'mixed'),
  rate,
  timeUnit: '1s',
  preAllocatedVUs: Math.min(Math.max(20, Math.ceil(rate / 10)), 400),
  maxVUs: 400,
}
const strict = __ENV.P99_MS !== undefined

export const options = {
  discardResponseBodies: true,
  scenarios: {
    warmup: { ...load, duration: '1s', gracefulStop: '1s' },
    measured: { ...load, startTime: '1s', duration: env('DURATION', '10s'), gracefulStop: '5s' },
  },
  // A metric of one scenario is reported only where a threshold names it.
  thresholds: {
    'http_req_duration{scenario:measured}': [strict ? `p(99)<=${__ENV.P99_MS}` : 'max>=0'],
    'http_req_failed{scenario:measured}': [strict ? 'rate==0' : 'rate>=0'],
    'dropped_iterations{scenario:measured}': [strict ? 'count==0' : 'count>=0'],
    'http_reqs{scenario:measured}': ['count>=0'],
    'cache_hits{scenario:measured}': ['count>=0'],
    'cache_answers{scenario:measured}': ['count>=0'],
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'p(99.9)', 'max'],
  summaryTimeUnit: 'ms',
}

const below = (end) => Math.floor(Math.random() * end)
const oneOf = (end) => 1 + below(end)

function note(response) {
  const mark = response.headers['X-Cache']
  if (mark !== undefined) {
    marked.add(1)
    if (mark === 'hit') hits.add(1)
  }
}

// The name in `tags` stands for all URLs of a kind, or k6 keeps figures for each URL.
export function point() {
  note(http.get(`${products}/${oneOf(rows)}`, { headers, tags: { name: 'point' } }))
}

export function list() {
  const query = `category_id=${oneOf(categories)}&price[gte]=${below(500)}&page=${oneOf(3)}`
  note(http.get(`${products}?${query}`, { headers, tags: { name: 'list' } }))
}

export function sorted() {
  const query = `category_id=${oneOf(categories)}&status=active&price[gte]=${below(500)}&sort=-price`
  note(http.get(`${products}?${query}`, { headers, tags: { name: 'sorted' } }))
}

export function create() {
  const body = {
    category_id: oneOf(categories),
    sku: `K-${Date.now().toString(36)}-${exec.vu.idInTest}-${exec.scenario.iterationInTest}-${below(1e9)}`.toUpperCase(),
    name: 'Bench Lamp',
    description: 'Made by the bench. It is deleted with its database.',
    status: 'active',
    price: `${oneOf(999)}.50`,
    currency: 'EUR',
    stock: below(500),
    tags: ['Bench', 'Lighting'],
    attributes: { size: 'M', color: 'red' },
  }
  http.post(products, JSON.stringify(body), { headers, tags: { name: 'create' } })
}

export function patch() {
  const body = JSON.stringify({ stock: below(500), price: `${oneOf(999)}.50` })
  http.patch(`${products}/${oneOf(rows)}`, body, { headers, tags: { name: 'patch' } })
}

export function mixed() {
  const drawn = Math.random()
  if (drawn < 0.8) point()
  else if (drawn < 0.95) list()
  else if (drawn < 0.975) create()
  else patch()
}

export function handleSummary(data) {
  const told = { stdout: '' }
  if (__ENV.SUMMARY) told[__ENV.SUMMARY] = JSON.stringify(data)
  else told.stdout = JSON.stringify(data.metrics, null, 2)
  return told
}
