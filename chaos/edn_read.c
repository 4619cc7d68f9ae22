/* Histories from EDN. Strict: what the writer would not write is refused, with the line and the reason; but
 * spaces, commas and the order of fields are free, and a line may be empty or a comment (;).
 *
 * A line is parsed in one pass into one struct chaos_op whose lists lie in the parser; which fields must and
 * may be there is known when :f and :type are, and checked at its end. */
#include "chaos/edn.h"
#include "chaos/history_private.h"

#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define KEYWORD_MAX 24u
#define LINE_FIRST (32u << 10) /* bytes; CHAOS_EDN_LINE_MAX is a multiple by doubling */
#define TEXTS_BYTES (3u * (CHAOS_TEXT_MAX + 1))

struct parser {
    const char *at, *end;
    struct dn_error *err;
    struct chaos_op op;
    unsigned fields; /* bits of enum chaos_edn_field that were there */
    unsigned keys;   /* bits of enum key */
    struct chaos_event events[CHAOS_LIST_MAX];
    uint64_t token[CHAOS_LIST_MAX], near[CHAOS_LIST_MAX];
    struct chaos_group groups[CHAOS_GROUPS_MAX];
    struct chaos_row rows[CHAOS_LIST_MAX];
    char texts[TEXTS_BYTES];
    size_t texts_used;
};

/* ---- tokens: each returns false with *err set ------------------------------------------------------ */

__attribute__((format(printf, 2, 3))) static bool refuse(struct parser *p, const char *format, ...)
{
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dn_fail(p->err, DN_INVALID, "%s", text);
    return false;
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == ',' || *p->at == '\t' || *p->at == '\r')) {
        p->at++;
    }
}

/* The next character that is no space; 0 at the end. */
static char peek(struct parser *p)
{
    skip_space(p);
    return p->at < p->end ? *p->at : '\0';
}

static bool take(struct parser *p, char c)
{
    if (peek(p) != c) {
        return refuse(p, p->at < p->end ? "'%c' expected, not '%c'" : "'%c' expected, and the line ends", c,
                      p->at < p->end ? *p->at : ' ');
    }
    p->at++;
    return true;
}

static bool is_end(const struct parser *p)
{
    return p->at >= p->end || strchr(" ,\t\r{}[]\"", *p->at) != NULL;
}

static bool take_u64(struct parser *p, uint64_t max, uint64_t *ret)
{
    uint64_t value = 0;
    skip_space(p);
    const char *from = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
        unsigned digit = (unsigned)(*p->at++ - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return refuse(p, "a number above %" PRIu64, max);
        }
        value = value * 10 + digit;
    }
    bool digits = p->at > from && (p->at == from + 1 || *from != '0');
    if (digits && value > INT64_MAX && p->at < p->end && *p->at == 'N') {
        p->at++;
    } else if (value > INT64_MAX) {
        digits = false;
    }
    if (!digits || !is_end(p)) {
        return refuse(p, "a whole number expected");
    }
    if (value > max) {
        return refuse(p, "%" PRIu64 " is above %" PRIu64, value, max);
    }
    *ret = value;
    return true;
}

static bool take_i64(struct parser *p, int64_t *ret)
{
    uint64_t value = 0;
    if (peek(p) != '-') {
        if (!take_u64(p, INT64_MAX, &value)) {
            return false;
        }
        *ret = (int64_t)value;
        return true;
    }
    p->at++;
    /* INT64_MIN is the one number whose positive has no place: it is not a time anybody needs. */
    if (p->at >= p->end || *p->at < '1' || *p->at > '9' || !take_u64(p, INT64_MAX, &value)) {
        return refuse(p, "a whole number expected");
    }
    *ret = -(int64_t)value;
    return true;
}

static bool take_u32(struct parser *p, uint32_t *ret)
{
    uint64_t value;
    if (!take_u64(p, UINT32_MAX, &value)) {
        return false;
    }
    *ret = (uint32_t)value;
    return true;
}

static bool take_keyword(struct parser *p, char ret[KEYWORD_MAX])
{
    size_t length = 0;
    if (!take(p, ':')) {
        return false;
    }
    while (p->at < p->end && ((*p->at >= 'a' && *p->at <= 'z') || *p->at == '-')) {
        if (length + 1 == KEYWORD_MAX) {
            return refuse(p, "a keyword that is too long");
        }
        ret[length++] = *p->at++;
    }
    ret[length] = '\0';
    return length > 0 && is_end(p) ? true : refuse(p, "a keyword expected");
}

/* A keyword that is one of names(0), names(1), ... */
static bool take_name(struct parser *p, const char *(*names)(int), int count, int *ret)
{
    char keyword[KEYWORD_MAX];
    if (!take_keyword(p, keyword)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(keyword, names(i)) == 0) {
            *ret = i;
            return true;
        }
    }
    return refuse(p, ":%s is not known here", keyword);
}

static bool take_bool(struct parser *p, bool *ret)
{
    skip_space(p);
    size_t left = (size_t)(p->end - p->at);
    if (left >= 4 && memcmp(p->at, "true", 4) == 0) {
        *ret = true;
        p->at += 4;
    } else if (left >= 5 && memcmp(p->at, "false", 5) == 0) {
        *ret = false;
        p->at += 5;
    } else {
        return refuse(p, "true or false expected");
    }
    return is_end(p) ? true : refuse(p, "true or false expected");
}

static bool take_escape(struct parser *p, char *ret)
{
    char c = p->at < p->end ? *p->at++ : '\0';
    unsigned code = 0;
    if (c == '"' || c == '\\') {
        *ret = c;
        return true;
    }
    if (c != 'u' || p->end - p->at < 4) {
        return refuse(p, "only \\\", \\\\ and \\u00xx are known in texts");
    }
    for (int i = 0; i < 4; i++) {
        char digit = *p->at++;
        int value = digit >= '0' && digit <= '9'   ? digit - '0'
                    : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                                   : -1;
        if (value < 0) {
            return refuse(p, "\\u has four lower-case hexadecimal digits");
        }
        code = code * 16 + (unsigned)value;
    }
    if (code == 0 || code > 0x7f) {
        return refuse(p, "\\u%04x: only control characters are written so", code);
    }
    *ret = (char)code;
    return true;
}

static bool take_string(struct parser *p, const char **ret)
{
    if (!take(p, '"')) {
        return false;
    }
    char *text = p->texts + p->texts_used;
    size_t length = 0, most = TEXTS_BYTES - p->texts_used;
    most = most < CHAOS_TEXT_MAX + 1 ? most : CHAOS_TEXT_MAX + 1;
    for (;;) {
        if (p->at >= p->end) {
            return refuse(p, "a text without an end");
        }
        char c = *p->at++;
        if (c == '"') {
            break;
        }
        if (c == '\\' && !take_escape(p, &c)) {
            return false;
        }
        if (length + 1 >= most) {
            return refuse(p, "a text of more than %d bytes", CHAOS_TEXT_MAX);
        }
        text[length++] = c;
    }
    text[length] = '\0';
    if (!dn_utf8_valid(text, length)) {
        return refuse(p, "a text that is not UTF-8");
    }
    p->texts_used += length + 1;
    *ret = text;
    return true;
}

/* ---- values --------------------------------------------------------------------------------------- */

static bool take_ids(struct parser *p, uint64_t *list, size_t *ret_count)
{
    size_t count = 0;
    if (!take(p, '[')) {
        return false;
    }
    while (peek(p) != ']') {
        if (count == CHAOS_LIST_MAX) {
            return refuse(p, "a list of more than %d", CHAOS_LIST_MAX);
        }
        if (!take_u64(p, UINT64_MAX, &list[count++])) {
            return false;
        }
    }
    p->at++;
    *ret_count = count;
    return true;
}

static const char *outcome_name(int i)
{
    return chaos_outcome_name(i);
}

static bool take_event(struct parser *p, struct chaos_event *event)
{
    *event = (struct chaos_event){.outcome = -1, .offset = -1};
    if (!take(p, '[') || !take_u64(p, UINT64_MAX, &event->id) || !take_i64(p, &event->time_ms)) {
        return false;
    }
    char c = peek(p);
    if (c == ':') {
        int outcome;
        if (!take_name(p, outcome_name, CHAOS_OUTCOMES, &outcome)) {
            return false;
        }
        event->outcome = outcome;
    } else if (c != ']') {
        uint64_t offset;
        if (!take_u64(p, INT32_MAX, &offset)) {
            return false;
        }
        event->offset = (int32_t)offset;
    }
    return take(p, ']');
}

static bool take_events(struct parser *p)
{
    if (!take(p, '[')) {
        return false;
    }
    while (peek(p) != ']') {
        if (p->op.events_count == CHAOS_LIST_MAX) {
            return refuse(p, "more than %d events", CHAOS_LIST_MAX);
        }
        if (!take_event(p, &p->events[p->op.events_count++])) {
            return false;
        }
    }
    p->at++;
    return true;
}

/* Fields of a group, in the order of their bits. */
static const char *group_field(int i)
{
    static const char *const names[] = {"group",  "leads",   "leader",     "term",
                                        "commit", "applied", "hash-index", "hash"};
    return names[i];
}
#define GROUP_FIELDS 8

static bool take_group_field(struct parser *p, struct chaos_group *group, int field)
{
    switch (field) {
    case 0:
        return take_u32(p, &group->group);
    case 1:
        return take_bool(p, &group->is_leader);
    case 2:
        return take_u64(p, UINT64_MAX, &group->leader);
    case 3:
        return take_u64(p, UINT64_MAX, &group->term);
    case 4:
        return take_u64(p, UINT64_MAX, &group->commit);
    case 5:
        return take_u64(p, UINT64_MAX, &group->applied);
    case 6:
        return take_u64(p, UINT64_MAX, &group->hash_index);
    default:
        return take_u64(p, UINT64_MAX, &group->hash);
    }
}

static bool take_group(struct parser *p, struct chaos_group *group)
{
    unsigned seen = 0;
    memset(group, 0, sizeof *group);
    if (!take(p, '{')) {
        return false;
    }
    while (peek(p) != '}') {
        int field;
        if (!take_name(p, group_field, GROUP_FIELDS, &field)) {
            return false;
        }
        if ((seen & 1u << field) != 0) {
            return refuse(p, ":%s twice", group_field(field));
        }
        seen |= 1u << field;
        if (!take_group_field(p, group, field)) {
            return false;
        }
    }
    p->at++;
    return seen == (1u << GROUP_FIELDS) - 1 ? true : refuse(p, "a group without all of its fields");
}

static bool take_groups(struct parser *p)
{
    if (!take(p, '[')) {
        return false;
    }
    while (peek(p) != ']') {
        if (p->op.groups_count == CHAOS_GROUPS_MAX) {
            return refuse(p, "more than %d groups", CHAOS_GROUPS_MAX);
        }
        if (!take_group(p, &p->groups[p->op.groups_count++])) {
            return false;
        }
    }
    p->at++;
    return true;
}

static bool take_rows(struct parser *p)
{
    if (!take(p, '[')) {
        return false;
    }
    while (peek(p) != ']') {
        if (p->op.rows_count == CHAOS_LIST_MAX) {
            return refuse(p, "more than %d rows", CHAOS_LIST_MAX);
        }
        struct chaos_row *row = &p->rows[p->op.rows_count++];
        if (!take(p, '[')) {
            return false;
        }
        for (size_t i = 0; i < CHAOS_ROW_NUMBERS; i++) {
            if (!take_u64(p, UINT64_MAX, &row->of[i])) {
                return false;
            }
        }
        if (!take(p, ']')) {
            return false;
        }
    }
    p->at++;
    return true;
}

static const char *level_name(int i)
{
    return chaos_level_name((enum chaos_level)i);
}

static bool take_level(struct parser *p)
{
    int level;
    if (!take_name(p, level_name, CHAOS_LINEARIZABLE + 1, &level)) {
        return false;
    }
    p->op.level = (enum chaos_level)level;
    return true;
}

static const char *field_name(int i)
{
    return chaos_edn_field_name((enum chaos_edn_field)i);
}

static bool take_field(struct parser *p, int field)
{
    switch (field) {
    case EDN_USER:
    case EDN_ITEM:
        return take_u64(p, UINT64_MAX, &p->op.key);
    case EDN_LEVEL:
        return take_level(p);
    case EDN_EVENTS:
        return take_events(p);
    case EDN_TOKEN:
        return take_ids(p, p->token, &p->op.token_count);
    case EDN_FOUND:
        return take_bool(p, &p->op.found);
    case EDN_AGE:
        p->op.age_known = true;
        return take_u64(p, UINT64_MAX, &p->op.age_us);
    case EDN_SHARD:
        return take_u32(p, &p->op.shard);
    case EDN_APPLIED:
        return take_u64(p, UINT64_MAX, &p->op.applied);
    case EDN_VERSION:
        return take_u64(p, UINT64_MAX, &p->op.version);
    case EDN_VALUE:
        return take_u64(p, UINT64_MAX, &p->op.value);
    case EDN_NEAR:
        return take_ids(p, p->near, &p->op.near_count);
    case EDN_GROUPS:
        return take_groups(p);
    case EDN_ROWS:
        return take_rows(p);
    case EDN_NAME:
        return take_string(p, &p->op.name);
    default:
        return take_string(p, &p->op.what);
    }
}

static bool take_value(struct parser *p)
{
    if (!take(p, '{')) {
        return false;
    }
    while (peek(p) != '}') {
        int field;
        if (!take_name(p, field_name, EDN_FIELD_COUNT, &field)) {
            return false;
        }
        if ((p->fields & 1u << field) != 0) {
            return refuse(p, ":%s twice", field_name(field));
        }
        p->fields |= 1u << field;
        if (!take_field(p, field)) {
            return false;
        }
    }
    p->at++;
    return true;
}

/* ---- one line ------------------------------------------------------------------------------------- */

enum key { KEY_INDEX, KEY_TIME, KEY_TYPE, KEY_PROCESS, KEY_F, KEY_VALUE, KEY_NODE, KEY_ERROR, KEY_COUNT };
#define KEYS_REQUIRED ((1u << (KEY_VALUE + 1)) - 1)

static const char *key_name(int i)
{
    static const char *const names[KEY_COUNT] = {"index", "time",  "type", "process",
                                                 "f",     "value", "node", "error"};
    return names[i];
}

static const char *type_name(int i)
{
    return chaos_type_name((enum chaos_type)i);
}

static const char *f_name(int i)
{
    return chaos_f_name((enum chaos_f)i);
}

static const char *nemesis_name(int i)
{
    (void)i;
    return "nemesis";
}

static bool take_process(struct parser *p)
{
    uint64_t process;
    if (peek(p) == ':') {
        int ignored;
        p->op.process = CHAOS_NEMESIS;
        return take_name(p, nemesis_name, 1, &ignored);
    }
    if (!take_u64(p, INT32_MAX, &process)) {
        return false;
    }
    p->op.process = (int32_t)process;
    return true;
}

static bool take_node(struct parser *p)
{
    uint64_t node = 0;
    if (!take(p, '"')) {
        return false;
    }
    if (p->at >= p->end || *p->at++ != 'n' || is_end(p) || !take_u64(p, CHAOS_NODES_MAX, &node) ||
        node == 0 || p->at >= p->end || *p->at++ != '"') {
        return refuse(p, "a node is \"n1\" to \"n%d\"", CHAOS_NODES_MAX);
    }
    p->op.node = (uint32_t)node;
    return true;
}

static bool take_key(struct parser *p, int key)
{
    int number;
    switch (key) {
    case KEY_INDEX:
        return take_u64(p, CHAOS_OPS_MAX, &p->op.index);
    case KEY_TIME:
        return take_i64(p, &p->op.time_ns);
    case KEY_TYPE:
        if (!take_name(p, type_name, CHAOS_INFO + 1, &number)) {
            return false;
        }
        p->op.type = (enum chaos_type)number;
        return true;
    case KEY_PROCESS:
        return take_process(p);
    case KEY_F:
        if (!take_name(p, f_name, CHAOS_F_COUNT, &number)) {
            return false;
        }
        p->op.f = (enum chaos_f)number;
        return true;
    case KEY_VALUE:
        return take_value(p);
    case KEY_NODE:
        return take_node(p);
    default:
        return take_string(p, &p->op.error);
    }
}

/* The first field of a set of bits, for messages. */
static const char *first_field(unsigned bits)
{
    return chaos_edn_field_name((enum chaos_edn_field)__builtin_ctz(bits));
}

static bool events_fit(struct parser *p)
{
    bool answered = p->op.f == CHAOS_PUBLISH && p->op.type == CHAOS_OK;
    bool may_be_answered = answered || (p->op.f == CHAOS_PUBLISH && p->op.type == CHAOS_INFO);
    for (size_t i = 0; i < p->op.events_count; i++) {
        const struct chaos_event *event = &p->events[i];
        bool offset_fits =
            p->op.f != CHAOS_INGEST ? event->offset < 0 : event->offset >= 0 || p->op.type != CHAOS_OK;
        if ((event->outcome >= 0 && !may_be_answered) || (event->outcome < 0 && answered) || !offset_fits) {
            return refuse(p, "an event of :%s :%s is %s", type_name((int)p->op.type), f_name((int)p->op.f),
                          p->op.f == CHAOS_INGEST ? "[id time offset]"
                          : answered              ? "[id time :outcome]"
                                                  : "[id time]");
        }
    }
    return true;
}

static bool line_fits(struct parser *p)
{
    unsigned allowed = chaos_edn_allowed(p->op.f, p->op.type);
    unsigned required = chaos_edn_required(p->op.f, p->op.type);
    if (p->op.f == CHAOS_GET && p->op.type == CHAOS_OK) {
        if (p->op.found) {
            required |= 1u << EDN_VALUE;
        } else {
            allowed &= ~(1u << EDN_VALUE);
        }
    }
    if ((p->fields & ~allowed) != 0) {
        return refuse(p, "a :%s :%s has no :%s", type_name((int)p->op.type), f_name((int)p->op.f),
                      first_field(p->fields & ~allowed));
    }
    if ((required & ~p->fields) != 0) {
        return refuse(p, "a :%s :%s needs :%s", type_name((int)p->op.type), f_name((int)p->op.f),
                      first_field(required & ~p->fields));
    }
    return events_fit(p);
}

static bool parse_line(struct parser *p, const char *line, size_t length)
{
    p->at = line;
    p->end = line + length;
    p->fields = p->keys = 0;
    p->texts_used = 0;
    p->op = (struct chaos_op){
        .events = p->events, .token = p->token, .near = p->near, .groups = p->groups, .rows = p->rows};
    if (!take(p, '{')) {
        return false;
    }
    while (peek(p) != '}') {
        int key;
        if (!take_name(p, key_name, KEY_COUNT, &key)) {
            return false;
        }
        if ((p->keys & 1u << key) != 0) {
            return refuse(p, ":%s twice", key_name(key));
        }
        p->keys |= 1u << key;
        if (!take_key(p, key)) {
            return false;
        }
    }
    p->at++;
    if (peek(p) != '\0' || p->at < p->end) {
        return refuse(p, "more after the end of the map");
    }
    if ((KEYS_REQUIRED & ~p->keys) != 0) {
        return refuse(p, ":%s is missing", key_name(__builtin_ctz(KEYS_REQUIRED & ~p->keys)));
    }
    return line_fits(p);
}

/* ---- the file ------------------------------------------------------------------------------------- */

struct lines {
    FILE *in;
    char *bytes;
    size_t capacity; /* grows to CHAOS_EDN_LINE_MAX */
    size_t from, to;
    bool ended;
};

static enum dn_code lines_grow(struct lines *lines, struct dn_error *err)
{
    if (lines->capacity == CHAOS_EDN_LINE_MAX) {
        return dn_fail(err, DN_INVALID, "longer than %u bytes", CHAOS_EDN_LINE_MAX);
    }
    char *bytes = realloc(lines->bytes, 2 * lines->capacity);
    if (bytes == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a long line");
    }
    lines->bytes = bytes;
    lines->capacity *= 2;
    return DN_OK;
}

/* The next line without its end. false: no more, or failed (*ret_code). */
static bool next_line(struct lines *lines, const char **ret_line, size_t *ret_length, enum dn_code *ret_code,
                      struct dn_error *err)
{
    for (;;) {
        char *from = lines->bytes + lines->from;
        size_t length = lines->to - lines->from;
        const char *end = length > 0 ? memchr(from, '\n', length) : NULL;
        if (end != NULL || (lines->ended && length > 0)) {
            *ret_line = from;
            *ret_length = end != NULL ? (size_t)(end - from) : length;
            lines->from += *ret_length + (end != NULL);
            return true;
        }
        if (lines->ended) {
            return false;
        }
        memmove(lines->bytes, from, length);
        lines->from = 0;
        lines->to = length;
        if (length == lines->capacity) {
            *ret_code = lines_grow(lines, err);
            if (*ret_code != DN_OK) {
                return false;
            }
        }
        size_t got = fread(lines->bytes + length, 1, lines->capacity - length, lines->in);
        lines->to += got;
        lines->ended = got == 0;
        if (got == 0 && ferror(lines->in)) {
            *ret_code = dn_fail(err, DN_IO, "%s", strerror(errno));
            return false;
        }
    }
}

static bool says_nothing(const char *line, size_t length)
{
    size_t blank = 0;
    while (blank < length && (line[blank] == ' ' || line[blank] == '\t' || line[blank] == '\r')) {
        blank++;
    }
    return blank == length || line[blank] == ';';
}

static enum dn_code read_lines(struct parser *p, struct lines *lines, struct chaos_history *history,
                               size_t *ret_number, struct dn_error *err)
{
    const char *line;
    size_t length;
    enum dn_code code = DN_OK;
    for (*ret_number = 1; next_line(lines, &line, &length, &code, err); ++*ret_number) {
        if (says_nothing(line, length)) {
            continue;
        }
        if (!parse_line(p, line, length)) {
            return DN_INVALID;
        }
        code = chaos_history_admit(history, &p->op, err);
        if (code != DN_OK) {
            return code;
        }
    }
    return code;
}

enum dn_code chaos_history_read(FILE *in, const char *name, struct chaos_history **ret, struct dn_error *err)
{
    struct dn_error own;
    struct dn_error *why = err != NULL ? err : &own;
    size_t number = 1;
    struct lines lines = {.in = in, .bytes = malloc(LINE_FIRST), .capacity = LINE_FIRST};
    struct parser *p = malloc(sizeof *p);
    struct chaos_history *history = chaos_history_create();
    enum dn_code code = DN_NO_MEMORY;
    if (p == NULL || lines.bytes == NULL) {
        dn_fail(why, code, "no memory for a line");
    } else {
        p->err = why;
        code = read_lines(p, &lines, history, &number, why);
    }
    free(p);
    free(lines.bytes);
    if (code != DN_OK) {
        chaos_history_destroy(history);
        return dn_wrap(err, code, "%s: line %zu", name, number);
    }
    *ret = history;
    return DN_OK;
}
