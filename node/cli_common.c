#include "node/cli.h"

#include "base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 3000
#define CLEAN_BUFFERS 4
#define CLEAN_MAX 400
#define TEXT_BYTES_MAX ((size_t)1 << 20)

/* ---- the options that every subcommand has
 * ------------------------------------------------------------------- */

enum { KEY_SERVER = 5000, KEY_TIMEOUT, KEY_JSON };

static const struct argp_option options[] = {
    {"server", KEY_SERVER, "HOST:PORT", 0, "Node to ask (default $DUNLIN_SERVER, else 127.0.0.1:7070)", 100},
    {"timeout", KEY_TIMEOUT, "MS", 0, "Deadline of a call (default 5000)", 100},
    {"json", KEY_JSON, NULL, 0, "Print results as JSON", 100},
    {0},
};

int64_t dn_cli_number(struct argp_state *state, const char *name, const char *text, int64_t min, int64_t max)
{
    int64_t value = min;

    if (!dn_parse_i64(text, min, max, &value))
        argp_error(state, "%s must be a whole number from %lld to %lld, not '%s'", name, (long long)min,
                   (long long)max, text);
    return value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct dn_cli *cli = state->input;
    char host[256];
    uint16_t port;

    switch (key) {
    case KEY_SERVER:
        if (!dn_parse_address(text, host, &port) || port == 0)
            argp_error(state, "--server must be HOST:PORT, not '%s'", text);
        cli->server = text;
        break;
    case KEY_TIMEOUT:
        cli->timeout_ms = (unsigned)dn_cli_number(state, "--timeout", text, 1, 600000);
        break;
    case KEY_JSON:
        cli->json = true;
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp dn_cli_argp = {.options = options, .parser = parse};

/* ---- calls
 * ---------------------------------------------------------------------------------------------------------
 */

static const char *advice(enum dn_code code)
{
    switch (code) {
    case DN_UNAVAILABLE:
        return "try again, or another node with --server; `dunlin status` shows leaders and readiness";
    case DN_DEADLINE:
        return "no answer in time: the cluster may have no leader now (`dunlin status`), or give a longer "
               "--timeout";
    case DN_EXHAUSTED:
        return "the node is at a limit: try again later or send less at once";
    case DN_UNIMPLEMENTED:
        return "is this dunlin's API port (default 7070), and is the server as new as this program?";
    default:
        return NULL;
    }
}

int dn_cli_complain(const struct dn_cli *cli, const char *what, enum dn_code code, const char *message)
{
    (void)cli;
    fprintf(stderr, "dunlin: %s: %s: %s\n", what, dn_code_text(code), dn_cli_clean(message));
    if (advice(code) != NULL)
        fprintf(stderr, "        %s\n", advice(code));
    return DN_CLI_FAILED;
}

int dn_cli_connect(struct dn_cli *cli)
{
    struct dn_error err;
    enum dn_code code;

    if (cli->client != NULL)
        return DN_CLI_OK;
    code = dn_client_connect(cli->server, CONNECT_TIMEOUT_MS, &cli->client, &err);
    if (code == DN_OK)
        return DN_CLI_OK;
    fprintf(stderr,
            "dunlin: %s\n        is dunlind running there? name a node with --server HOST:PORT or "
            "$DUNLIN_SERVER\n",
            err.message);
    return code == DN_INVALID ? DN_CLI_USAGE : DN_CLI_NO_CONNECTION;
}

enum dn_code dn_cli_try(struct dn_cli *cli, const char *path, const ProtobufCMessage *request,
                        const ProtobufCMessageDescriptor *answer_type, ProtobufCMessage **ret,
                        bool *ret_connected, struct dn_error *err)
{
    size_t length = protobuf_c_message_get_packed_size(request), answer_length = 0;
    uint8_t *bytes, *answer = NULL;
    enum dn_code code;

    *ret_connected = cli->client != NULL;
    if (cli->client == NULL) {
        code = dn_client_connect(cli->server, CONNECT_TIMEOUT_MS, &cli->client, err);
        if (code != DN_OK)
            return code;
        *ret_connected = true;
    }
    bytes = malloc(length + 1);
    if (bytes == NULL)
        return dn_fail(err, DN_NO_MEMORY, "the request");
    protobuf_c_message_pack(request, bytes);
    code = dn_client_call(cli->client, path, bytes, length, cli->timeout_ms, &answer, &answer_length, err);
    free(bytes);
    if (code == DN_UNAVAILABLE) { /* perhaps because the connection is gone */
        dn_client_close(cli->client);
        cli->client = NULL;
    }
    if (code != DN_OK)
        return code;
    *ret = protobuf_c_message_unpack(answer_type, NULL, answer_length, answer);
    free(answer);
    if (*ret == NULL)
        return dn_fail(err, DN_INTERNAL, "the answer is not what this program knows");
    return DN_OK;
}

int dn_cli_call(struct dn_cli *cli, const char *path, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *answer_type, ProtobufCMessage **ret)
{
    struct dn_error err = {0};
    bool connected;
    enum dn_code code;
    int exit_code = dn_cli_connect(cli);

    if (exit_code != DN_CLI_OK)
        return exit_code;
    code = dn_cli_try(cli, path, request, answer_type, ret, &connected, &err);
    return code == DN_OK ? DN_CLI_OK : dn_cli_complain(cli, strrchr(path, '/') + 1, code, err.message);
}

/* ---- read options
 * ---------------------------------------------------------------------------------------------------- */

enum { KEY_LEVEL = 5100, KEY_TOKEN, KEY_STALENESS };

static const struct argp_option read_options[] = {
    {"level", KEY_LEVEL, "LEVEL", 0,
     "How new the answer must be: local (default), session (as the token), linearizable (as of now)", 50},
    {"token", KEY_TOKEN, "HEX", 0, "A token printed by publish or by an earlier answer; implies session", 50},
    {"max-staleness", KEY_STALENESS, "MS", 0, "local: refuse an answer older than this", 50},
    {0},
};

static error_t parse_read(int key, char *text, struct argp_state *state)
{
    static const char *const levels[] = {"local", "session", "linearizable"};
    struct dn_cli_read *read = state->input;

    switch (key) {
    case KEY_LEVEL:
        for (size_t i = 0; i < 3; i++) {
            if (strcmp(text, levels[i]) == 0) {
                read->options.level = (Dunlin__V1__ReadLevel)i;
                return 0;
            }
        }
        argp_error(state, "--level must be local, session or linearizable, not '%s'", text);
        break;
    case KEY_TOKEN:
        if (!dn_cli_unhex(text, read->token, sizeof read->token, &read->options.token.len))
            argp_error(state, "--token must be the hex digits that publish or an answer printed");
        read->options.token.data = read->token;
        if (read->options.level == DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL)
            read->options.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
        break;
    case KEY_STALENESS:
        read->options.max_staleness_ms =
            (uint64_t)dn_cli_number(state, "--max-staleness", text, 1, INT64_C(86400000));
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp dn_cli_read_argp = {.options = read_options, .parser = parse_read};

void dn_cli_read_init(struct dn_cli_read *read)
{
    memset(read, 0, sizeof *read);
    dunlin__v1__read_options__init(&read->options);
}

/* ---- text
 * ----------------------------------------------------------------------------------------------------------------
 */

char *dn_cli_hex(const ProtobufCBinaryData *bytes)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(bytes->len * 2 + 1);

    if (text == NULL)
        abort();
    for (size_t i = 0; i < bytes->len; i++) {
        text[2 * i] = digits[bytes->data[i] >> 4];
        text[2 * i + 1] = digits[bytes->data[i] & 15];
    }
    text[bytes->len * 2] = '\0';
    return text;
}

bool dn_cli_unhex(const char *text, uint8_t *ret_bytes, size_t size, size_t *ret_length)
{
    size_t length = strlen(text);

    if (length % 2 != 0 || length / 2 > size || strspn(text, "0123456789abcdefABCDEF") != length)
        return false;
    for (size_t i = 0; i < length / 2; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};

        ret_bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    *ret_length = length / 2;
    return true;
}

const char *dn_cli_clean(const char *text)
{
    static char ring[CLEAN_BUFFERS][CLEAN_MAX];
    static unsigned turn;
    char *out = ring[turn++ % CLEAN_BUFFERS];
    size_t length = 0;

    for (; text[length] != '\0' && length + 1 < CLEAN_MAX; length++)
        out[length] = (unsigned char)text[length] < 0x20 || text[length] == 0x7f ? '?' : text[length];
    out[length] = '\0';
    return out;
}

json_t *dn_cli_json_freshness(const Dunlin__V1__Freshness *freshness)
{
    json_t *object;

    if (freshness == NULL)
        return json_null();
    object = json_pack("{s:s, s:I, s:I, s:b}", "node", freshness->node, "shard", (json_int_t)freshness->shard,
                       "applied_index", (json_int_t)freshness->applied_index, "stale", freshness->stale != 0);
    json_object_set_new(object, "age_us",
                        freshness->age_known ? json_integer((json_int_t)freshness->age_us) : json_null());
    json_object_set_new(object, "stream_stalled", json_boolean(freshness->stream_stalled));
    json_object_set_new(object, "stream_age_ms", json_integer((json_int_t)freshness->stream_age_ms));
    return object;
}

void dn_cli_print_freshness(const Dunlin__V1__Freshness *freshness)
{
    if (freshness == NULL)
        return;
    printf("from %s, shard %u, applied %llu, ", dn_cli_clean(freshness->node), freshness->shard,
           (unsigned long long)freshness->applied_index);
    if (freshness->age_known)
        printf("age %.1f ms%s\n", (double)freshness->age_us / 1000, freshness->stale ? " (STALE)" : "");
    else
        printf("age unknown%s\n", freshness->stale ? " (STALE)" : "");
    if (freshness->stream_stalled)
        printf("the shard's streams STAND STILL for %.1f s (`dunlin source list`)\n",
               (double)freshness->stream_age_ms / 1000);
}

json_t *dn_cli_json_text(const char *text)
{
    static const char UNKNOWN[] = "\xef\xbf\xbd"; /* U+FFFD */
    struct dn_buffer valid;

    dn_buffer_init(&valid, TEXT_BYTES_MAX);
    while (*text != '\0') {
        size_t length = 1; /* of a character, or of a byte that is none */
        while (length < 4 && text[length] != '\0' && !dn_utf8_valid(text, length))
            length++;
        bool known = dn_utf8_valid(text, length);
        if (!known)
            length = 1;
        dn_buffer_append(&valid, known ? text : UNKNOWN, known ? length : sizeof UNKNOWN - 1);
        text += length;
    }
    json_t *string = valid.failed        ? NULL
                     : valid.length == 0 ? json_string("")
                                         : json_stringn((const char *)valid.bytes, valid.length);
    dn_buffer_free(&valid);
    return string;
}

static bool json_failed; /* one was not printed */

bool dn_cli_print_json(json_t *object)
{
    errno = 0;
    bool whole = object != NULL && json_dumpf(object, stdout, JSON_INDENT(2)) == 0 && putchar('\n') != EOF &&
                 fflush(stdout) == 0;

    if (object == NULL)
        fprintf(stderr, "dunlin: the result cannot be told as JSON: a text in it is not UTF-8, or memory is "
                        "out; try without --json\n");
    else if (!whole)
        fprintf(stderr, "dunlin: write the result: %s\n", strerror(errno != 0 ? errno : EIO));
    json_failed = json_failed || !whole;
    json_decref(object);
    return whole;
}

int dn_cli_finish(int exit_code)
{
    errno = 0;
    bool whole = fflush(stdout) == 0 && !ferror(stdout);

    if (!whole && !json_failed)
        fprintf(stderr, "dunlin: write the output: %s\n", strerror(errno != 0 ? errno : EIO));
    return exit_code == DN_CLI_OK && (!whole || json_failed) ? DN_CLI_FAILED : exit_code;
}
