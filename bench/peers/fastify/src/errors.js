// Errors as the design document has them: {"error": {"code", "message", "details"}}.
import { ZodError } from 'zod'

export class ApiError extends Error {
  constructor(status, code, message, options = {}) {
    super(message, options)
    Object.assign(this, { status, code, details: options.details ?? {} })
  }
}

export class Unauthorized extends ApiError {
  constructor(message, options = {}) {
    const status = options.status ?? 401
    super(status, status === 403 ? 'FORBIDDEN' : 'UNAUTHORIZED', message, options)
  }
}

export class NotFound extends ApiError {
  constructor(message = 'There is no such row.') {
    super(404, 'NOT_FOUND', message)
  }
}

const bySqlState = {
  23505: [409, 'CONFLICT', 'A row like this exists already.'],
  23503: [409, 'CONFLICT', 'The row refers to one that does not exist, or others refer to it.'],
  23502: [400, 'VALIDATION_ERROR', 'A value is missing.'],
  23514: [400, 'VALIDATION_ERROR', 'A value is out of range.'],
  '22P02': [400, 'VALIDATION_ERROR', 'A value has the wrong form.'],
  57014: [408, 'DB_TIMEOUT', 'The statement took too long.'],
}

export function toProblem(error) {
  if (error instanceof ApiError) return problem(error.status, error.code, error.message, error.details)
  if (error instanceof ZodError) {
    const problems = error.issues.map((issue) => ({ field: issue.path.join('.'), message: issue.message }))
    return problem(400, 'VALIDATION_ERROR', 'The request is not valid.', { field: problems[0]?.field, problems })
  }
  if (bySqlState[error.code]) return problem(...bySqlState[error.code], {})
  if (error.name === 'KnexTimeoutError') return problem(503, 'UNAVAILABLE', 'Every connection is busy.', {})
  if (error.statusCode && error.statusCode < 500) return problem(error.statusCode, error.code ?? 'VALIDATION_ERROR', error.message, {})
  return problem(500, 'INTERNAL_ERROR', 'Something went wrong.', {})
}

export function notFound(message) {
  return problem(404, 'NOT_FOUND', message, {})
}

function problem(status, code, message, details) {
  return { status, body: { error: { code, message, details } } }
}
