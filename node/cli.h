/* What the subcommands of the program dunlin share: options, one connection, calls, printing. Private to the
 * node room. Each subcommand parses its own arguments (argv[0] is the name shown) and returns the exit code.
 */
#ifndef DN_NODE_CLI_H
#define DN_NODE_CLI_H

#include "base/buffer.h"
#include "base/error.h"
#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "index/index.h"
#include "replay/feed.h"

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { DN_CLI_OK = 0, DN_CLI_FAILED = 1, DN_CLI_USAGE = 2, DN_CLI_NO_CONNECTION = 3 };

#define DN_CLI_TOKEN_MAX 4096 /* bytes */
#define DN_CLI_SHARDS_MAX 64

struct dn_cli {
    const char *server;
    unsigned timeout_ms;
    bool json;
    struct dn_client *client;
};

int dn_cli_status(struct dn_cli *cli, int argc, char **argv);
int dn_cli_member(struct dn_cli *cli, int argc, char **argv);
int dn_cli_source(struct dn_cli *cli, int argc, char **argv);
int dn_cli_deadletter(struct dn_cli *cli, int argc, char **argv);
int dn_cli_health(struct dn_cli *cli, int argc, char **argv);
int dn_cli_publish(struct dn_cli *cli, int argc, char **argv);
int dn_cli_recommend(struct dn_cli *cli, int argc, char **argv);
int dn_cli_similar(struct dn_cli *cli, int argc, char **argv);
int dn_cli_trending(struct dn_cli *cli, int argc, char **argv);
int dn_cli_session(struct dn_cli *cli, int argc, char **argv);
int dn_cli_catalog(struct dn_cli *cli, int argc, char **argv);
int dn_cli_key(struct dn_cli *cli, int argc, char **argv);
int dn_cli_journal(struct dn_cli *cli, int argc, char **argv);
int dn_cli_model(struct dn_cli *cli, int argc, char **argv);
int dn_cli_replay(struct dn_cli *cli, int argc, char **argv);
int dn_cli_eval(struct dn_cli *cli, int argc, char **argv);

/* --server, --timeout, --json; its input is the struct dn_cli. Put among a subcommand's argp children, before
 * or after the command they mean the same. */
extern const struct argp dn_cli_argp;

/* Connects on first use. The error is printed; the exit code comes back. */
int dn_cli_connect(struct dn_cli *cli);
/* One call. DN_CLI_OK: *ret is the answer, to be freed with protobuf_c_message_free_unpacked. Anything else
 * was printed with what to do about it. */
int dn_cli_call(struct dn_cli *cli, const char *path, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *answer_type, ProtobufCMessage **ret);
/* The same, but nothing is printed: the code and *err say what happened. A connection that was lost is opened
 * again by the next call; *err is about connecting when *ret_connected is false. */
enum dn_code dn_cli_try(struct dn_cli *cli, const char *path, const ProtobufCMessage *request,
                        const ProtobufCMessageDescriptor *answer_type, ProtobufCMessage **ret,
                        bool *ret_connected, struct dn_error *err);
/* Prints "dunlin: what: message" and advice for the code; returns the exit code. */
int dn_cli_complain(const struct dn_cli *cli, const char *what, enum dn_code code, const char *message);

/* Whether the member is what a change wanted it to be, in every group; `progress` gets how far it is, for
 * people. */
struct dn_cli_wish {
    Dunlin__V1__MemberOp op;
    uint64_t node_id;
    bool replica;         /* it is to have no vote */
    uint64_t old_raft_id; /* REPLACE: of the one that goes; 0: there was none */
};
bool dn_cli_wish_met(const struct dn_cli_wish *wish, const Dunlin__V1__ListMembersResponse *now,
                     char *progress, size_t size);

/* Where an operator wants reading to go on. */
struct dn_cli_source_wish {
    const char *stream;
    uint32_t partition;
    uint32_t shard; /* 0: every one that knows the partition */
    enum { DN_CLI_TO_OFFSET, DN_CLI_TO_END, DN_CLI_TO_BEGINNING } to;
    int64_t offset; /* DN_CLI_TO_OFFSET */
    bool forward;   /* skip: it must not go back */
    bool forget;    /* to: nowhere */
};
struct dn_cli_source_plan {
    int64_t next_offset; /* -1: the beginning */
    uint32_t shards[DN_CLI_SHARDS_MAX];
    int64_t old_offsets[DN_CLI_SHARDS_MAX]; /* -1: none */
    size_t count;
};
/* Sources.List of the node that is asked, to be freed with free_unpacked; else printed, as dn_cli_call. */
int dn_cli_source_list(struct dn_cli *cli, Dunlin__V1__ListSourcesResponse **ret);
/* What Sources.Set is to be told; false and the problem, for people, when that cannot be. */
bool dn_cli_source_plan(const Dunlin__V1__ListSourcesResponse *list, const struct dn_cli_source_wish *wish,
                        struct dn_cli_source_plan *ret, char *problem, size_t size);

/* Events on their way to Events.Publish, and what became of them (cli_batch.c). */
#define DN_CLI_BATCH_MAX 500
#define DN_CLI_OUTCOMES 9

struct dn_cli_batch {
    struct dn_feed_event events[DN_CLI_BATCH_MAX];
    size_t count;
};
struct dn_cli_totals {
    uint64_t outcomes[DN_CLI_OUTCOMES]; /* by dunlin.v1.EventOutcome */
    char *token;                        /* of the last answer, malloc'ed; NULL: none */
    char message[DN_ERROR_MESSAGE_MAX];
};
/* Publishes and empties the batch. Errors are printed; the exit code comes back. One thread. */
int dn_cli_batch_send(struct dn_cli *cli, struct dn_cli_batch *batch, struct dn_cli_totals *totals);
/* Those that were neither accepted nor had been before. */
uint64_t dn_cli_totals_refused(const struct dn_cli_totals *totals);

/* Options of reads: --level, --token, --max-staleness. Its input is a struct dn_cli_read. */
struct dn_cli_read {
    Dunlin__V1__ReadOptions options; /* points into token */
    uint8_t token[DN_CLI_TOKEN_MAX];
};
extern const struct argp dn_cli_read_argp;
void dn_cli_read_init(struct dn_cli_read *read);

/* Options --filter and --include-unavailable. Its input is a struct dn_cli_filter. */
struct dn_cli_filter {
    Dunlin__V1__Filter filter; /* points into the arena */
    struct dn_filter_tree tree;
    struct dn_arena *arena; /* NULL until something is added */
};
extern const struct argp dn_cli_filter_argp;
void dn_cli_filter_init(struct dn_cli_filter *filter);
void dn_cli_filter_free(struct dn_cli_filter *filter);
/* A filter's text (dn_filter_parse); what was added before must hold, too. DN_INVALID with what is wrong, and
 * *ret_at is the byte it is about. A filter that cannot be added changes nothing. */
enum dn_code dn_cli_filter_add(struct dn_cli_filter *filter, const char *text, size_t *ret_at,
                               struct dn_error *err);
/* Prints the error with the place in the text, and ends the program as argp_error does. */
void dn_cli_filter_refuse(struct argp_state *state, const char *option, const char *text, size_t at,
                          const struct dn_error *err);

/* Hex digits of a token into a malloc'ed text; never NULL (aborts when memory is out). */
char *dn_cli_hex(const ProtobufCBinaryData *bytes);
/* False unless text is an even number of hex digits that fit. */
bool dn_cli_unhex(const char *text, uint8_t *ret_bytes, size_t size, size_t *ret_length);

json_t *dn_cli_json_freshness(const Dunlin__V1__Freshness *freshness); /* NULL gives null */
void dn_cli_print_freshness(const Dunlin__V1__Freshness *freshness);
/* Any text as a JSON string: each byte that is not UTF-8 becomes U+FFFD. NULL: out of memory. */
json_t *dn_cli_json_text(const char *text);
/* Prints and releases the object; NULL: it could not be made. False: there is no JSON on stdout, or not all
 * of it; stderr says why, and dn_cli_finish makes it the exit code. */
bool dn_cli_print_json(json_t *object);
/* At the end of the program: the exit code, DN_CLI_FAILED instead of DN_CLI_OK where what was to be printed
 * was not, as JSON or as text. */
int dn_cli_finish(int exit_code);

/* Text that came from outside, for a terminal: control characters become '?'. Static ring of four buffers. */
const char *dn_cli_clean(const char *text);

int64_t dn_cli_number(struct argp_state *state, const char *name, const char *text, int64_t min, int64_t max);

#endif
