/* What an answer proves. The verdicts rest on this: a write that may have happened must never be called
 * :fail. Pure; any thread. */
#ifndef DN_CHAOS_WORKLOAD_CLASS_H
#define DN_CHAOS_WORKLOAD_CLASS_H

#include "chaos/history.h"

/* Beside gRPC's numbers (client.h: -1 is a connection that broke before a status came). */
#define WORKLOAD_NOT_SENT (-2) /* nothing of the request left this program */

/* Of a write: CHAOS_OK for status 0; CHAOS_FAIL only when it surely did not and will not happen; CHAOS_INFO
 * for all else. message: the server's, "" when none.
 *
 * Sure are INVALID_ARGUMENT (requests are checked whole before anything is done), and RESOURCE_EXHAUSTED with
 * one of the messages that a node or its leader gives before it proposes. The server promises that: when an
 * earlier try with another leader may have succeeded, such a refusal becomes UNAVAILABLE
 * (consensus/propose.c). A message that is worded otherwise in a later version makes more :info, never a
 * wrong :fail. */
enum chaos_type workload_write_type(int status, const char *message);

/* Of a read: it changes nothing, so that no answer is as good as none: CHAOS_OK or CHAOS_FAIL. */
enum chaos_type workload_read_type(int status);

#endif
