/* Private to the client room: pieces of client.c that stand on their own. */
#ifndef DN_CLIENT_INTERNAL_H
#define DN_CLIENT_INTERNAL_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define DN_CLIENT_STATUS_MESSAGE_MAX 4096 /* bytes of a grpc-message that are kept */

/* A connected, non-blocking socket with TCP_NODELAY, tried on every address the name resolves to. The name
 * look-up itself is not bounded by timeout_ms (the resolver has its own limits). */
enum dn_code dn_client_dial(const char *address, unsigned timeout_ms, int *ret_fd, struct dn_error *err);

/* Decodes %XX; sequences that are not two hex digits stay as they are, control characters become '?'. Writes
 * a NUL; returns the length. size >= 1. */
size_t dn_client_percent_decode(const uint8_t *text, size_t length, char *ret_text, size_t size);

/* 0..16 from the text of a grpc-status header; 2 (UNKNOWN) for anything else. */
int dn_client_parse_status(const uint8_t *text, size_t length);

/* Milliseconds from the text of a grpc-retry-pushback-ms header; -1 for anything else: do not come back. */
int dn_client_parse_pushback(const uint8_t *text, size_t length);

/* gRPC status for an answer that is not gRPC:
 * https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md */
int dn_client_status_of_http(int http_status);

/* gRPC status for a stream that was reset (table in the gRPC over HTTP/2 protocol document). */
int dn_client_status_of_reset(uint32_t http2_error);

#endif
