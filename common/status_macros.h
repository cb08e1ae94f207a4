#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the error of `expr` (an absl::Status) to the caller.
#define BALEEN_RETURN_IF_ERROR(expr)                                                    \
  do {                                                                                  \
    if (absl::Status baleen_status = (expr); !baleen_status.ok()) return baleen_status; \
  } while (false)

// BALEEN_ASSIGN_OR_RETURN(auto x, MakeX()): the value, or the error to the caller.
#define BALEEN_ASSIGN_OR_RETURN(lhs, expr) \
  BALEEN_ASSIGN_OR_RETURN_IMPL_(BALEEN_CONCAT_(baleen_statusor_, __LINE__), lhs, expr)
#define BALEEN_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return std::move(tmp).status();      \
  lhs = *std::move(tmp)
#define BALEEN_CONCAT_(a, b) BALEEN_CONCAT_INNER_(a, b)
#define BALEEN_CONCAT_INNER_(a, b) a##b
