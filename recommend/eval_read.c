/* Log files to clicks in memory. The happy path: a line -> its fields -> the session's and the item's number
 * -> one raw click; eval_set.c makes sessions of them.
 *
 * Nothing that comes from a file is believed: lines, ids, times and counts have a maximum, and every refusal
 * names file and line. */
#include "recommend/eval_private.h"

#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define READ_BUFFER_BYTES (256u << 10)
#define TIME_MAX_S 32503680000.0 /* the year 3000 */
#define PATTERN_ERROR_MAX 128
#define DROP_TYPES_MAX 256
/* Sequences begin here: any time does, but times near 0 would be before every half-life. */
#define SEQUENCES_MS INT64_C(1600000000000)

static const char tsv_header[] = "ts\tuser\tsession\titem\ttype\tprice";
enum { COLUMN_TS, COLUMN_USER, COLUMN_SESSION, COLUMN_ITEM, COLUMN_TYPE, COLUMN_PRICE, COLUMNS };

struct lines {
    gzFile file;
    const char *path;
    uint64_t number;
    size_t length;
    char text[DN_EVAL_LINE_MAX + 1];
};

struct reader {
    const struct dn_eval_input *input;
    struct dn_eval_set *set;
    struct dn_eval_raws raws;
    struct lines *lines;
    regex_t pattern;
    bool has_pattern;
    char drop[DROP_TYPES_MAX + 3]; /* ",cancel," */
};

/* ---- lines ------------------------------------------------------------------------------------------- */

static enum dn_code bad_line(const struct lines *lines, struct dn_error *err, const char *what)
{
    return dn_fail(err, DN_INVALID, "%s: line %llu: %s", lines->path, (unsigned long long)lines->number,
                   what);
}

static enum dn_code lines_open(struct lines *lines, const char *path, struct dn_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    lines->path = path;
    lines->number = 0;
    lines->file = fd < 0 ? NULL : gzdopen(fd, "rb");
    if (lines->file == NULL) {
        enum dn_code code = dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    gzbuffer(lines->file, READ_BUFFER_BYTES);
    return DN_OK;
}

static void lines_close(struct lines *lines)
{
    if (lines->file != NULL)
        gzclose_r(lines->file);
    lines->file = NULL;
}

/* What is wrong with the file, DN_NOT_FOUND: it is at its end. */
static enum dn_code lines_end(const struct lines *lines, struct dn_error *err)
{
    int zlib_error;
    const char *message = gzerror(lines->file, &zlib_error);

    if (zlib_error == Z_OK || zlib_error == Z_STREAM_END)
        return DN_NOT_FOUND;
    return dn_fail(err, DN_IO, "read '%s' after line %llu: %s", lines->path,
                   (unsigned long long)lines->number - 1, zlib_error == Z_ERRNO ? strerror(errno) : message);
}

/* The next line without its end; DN_NOT_FOUND: there is none. */
static enum dn_code lines_next(struct lines *lines, struct dn_error *err)
{
    lines->number++;
    if (gzgets(lines->file, lines->text, (int)sizeof lines->text) == NULL)
        return lines_end(lines, err);
    lines->length = strlen(lines->text);
    if (lines->length == sizeof lines->text - 1 && lines->text[lines->length - 1] != '\n')
        return bad_line(lines, err, "longer than 65,535 bytes");
    if (lines->length > 0 && lines->text[lines->length - 1] != '\n' && lines_end(lines, err) == DN_IO)
        return DN_IO; /* a file that was cut ends within a line */
    while (lines->length > 0 &&
           (lines->text[lines->length - 1] == '\n' || lines->text[lines->length - 1] == '\r'))
        lines->text[--lines->length] = '\0';
    return DN_OK;
}

/* ---- names to numbers -------------------------------------------------------------------------------- */

bool dn_eval_grow(void **array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    size_t wanted = *capacity == 0 ? 1024 : 2 * *capacity;
    void *grown = reallocarray(*array, wanted, size);

    if (grown == NULL)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

static enum dn_code no_memory(struct dn_error *err, size_t events)
{
    return dn_fail(err, DN_NO_MEMORY, "out of memory after %zu events", events);
}

static bool groups_rehash(struct dn_eval_raws *raws)
{
    size_t size = raws->mask == 0 ? 4096 : 2 * (raws->mask + 1);
    uint32_t *table = calloc(size, sizeof *table);

    if (table == NULL)
        return false;
    free(raws->table);
    raws->table = table;
    raws->mask = size - 1;
    for (size_t i = 0; i < raws->group_count; i++) {
        size_t at = raws->groups[i].user.low & raws->mask;
        while (table[at] != 0)
            at = (at + 1) & raws->mask;
        table[at] = (uint32_t)i + 1;
    }
    return true;
}

/* The number of a session's name, a new one where it is not known. False: out of memory. */
static bool group_of(struct dn_eval_raws *raws, const char *name, size_t length, uint32_t *ret)
{
    static const uint8_t key[DN_HASH_KEY_BYTES];
    struct dn_hash128 user = dn_keyed_hash128(key, name, length);
    void *groups = raws->groups;

    if (2 * (raws->group_count + 1) > raws->mask && !groups_rehash(raws))
        return false;
    size_t at = user.low & raws->mask;
    while (raws->table[at] != 0) {
        *ret = raws->table[at] - 1;
        if (dn_hash128_equal(raws->groups[*ret].user, user))
            return true;
        at = (at + 1) & raws->mask;
    }
    if (!dn_eval_grow(&groups, raws->group_count, &raws->group_capacity, sizeof *raws->groups))
        return false;
    raws->groups = groups;
    *ret = (uint32_t)raws->group_count;
    raws->table[at] = *ret + 1;
    raws->groups[raws->group_count++] =
        (struct dn_eval_group){.user = user, .murmur = dn_murmur2(name, length)};
    return true;
}

/* ---- one click --------------------------------------------------------------------------------------- */

/* False: a type that dunlin does not have. */
static bool type_of(const char *text, uint8_t *ret)
{
    static const struct {
        const char *name;
        uint8_t type;
    } types[] = {
        {"", DN_EVENT_CLICK},        {"click", DN_EVENT_CLICK},     {"view", DN_EVENT_VIEW},
        {"cart", DN_EVENT_CART},     {"buy", DN_EVENT_BUY},         {"purchase", DN_EVENT_BUY},
        {"like", DN_EVENT_LIKE},     {"dislike", DN_EVENT_DISLIKE}, {"play", DN_EVENT_PLAY},
        {"remove", DN_EVENT_REMOVE},
    };

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, text) == 0) {
            *ret = types[i].type;
            return true;
        }
    *ret = DN_EVENT_CLICK;
    return false;
}

static bool is_dropped(const struct reader *reader, const char *type)
{
    char wrapped[DROP_TYPES_MAX + 3];
    int length = snprintf(wrapped, sizeof wrapped, ",%s,", type);

    return *type != '\0' && length < (int)sizeof wrapped && strstr(reader->drop, wrapped) != NULL;
}

static bool is_left_out(const struct reader *reader, const char *item)
{
    return reader->has_pattern && regexec(&reader->pattern, item, 0, NULL, 0) != 0;
}

struct fields {
    int64_t time_ms;
    const char *session, *item, *type; /* session: or the user */
    float price;                       /* NaN: none */
};

static enum dn_code add_raw(struct reader *reader, uint32_t group, const struct fields *fields,
                            struct dn_error *err)
{
    struct dn_eval_raws *raws = &reader->raws;
    void *list = raws->list;
    uint8_t type;

    if (raws->count == DN_EVAL_EVENTS_MAX)
        return dn_fail(err, DN_EXHAUSTED, "%s: more than %zu events", reader->lines->path,
                       DN_EVAL_EVENTS_MAX);
    reader->set->facts.other_types += !type_of(fields->type, &type);
    size_t known = reader->set->item_count;
    uint32_t item = dn_eval_item_add(reader->set, fields->item, strlen(fields->item), err);
    if (item == DN_EVAL_NO_ITEM)
        return dn_wrap(err, err->code, "%s: line %llu", reader->lines->path,
                       (unsigned long long)reader->lines->number);
    if (item == known)
        reader->set->items[item].price = fields->price;
    if (!dn_eval_grow(&list, raws->count, &raws->capacity, sizeof *raws->list))
        return no_memory(err, raws->count);
    raws->list = list;
    raws->list[raws->count] = (struct dn_eval_raw){.time_ms = fields->time_ms,
                                                   .group = group,
                                                   .item = item,
                                                   .order = (uint32_t)raws->count,
                                                   .type = type};
    raws->count++;
    return DN_OK;
}

/* A click of a log with times. */
static enum dn_code add(struct reader *reader, const struct fields *fields, struct dn_error *err)
{
    uint32_t group;

    if (!dn_id_valid(fields->session, strlen(fields->session)))
        return bad_line(reader->lines, err, "neither session nor user is an id (1 to 256 bytes of UTF-8)");
    if (!dn_id_valid(fields->item, strlen(fields->item)))
        return bad_line(reader->lines, err, "the item is not an id (1 to 256 bytes of UTF-8)");
    if (is_dropped(reader, fields->type) || is_left_out(reader, fields->item)) {
        reader->set->facts.left_out++;
        return DN_OK;
    }
    if (!group_of(&reader->raws, fields->session, strlen(fields->session), &group))
        return no_memory(err, reader->raws.count);
    return add_raw(reader, group, fields, err);
}

/* ---- formats ----------------------------------------------------------------------------------------- */

static float price_of(const char *text)
{
    char *end;
    float price = strtof(text, &end);

    return end == text || *end != '\0' || !isfinite(price) || price < 0 ? NAN : price;
}

static enum dn_code tsv_line(struct reader *reader, struct dn_error *err)
{
    struct lines *lines = reader->lines;
    char *columns[COLUMNS], *rest = lines->text, *end;
    size_t count = 0;

    while (count < COLUMNS && rest != NULL)
        columns[count++] = strsep(&rest, "\t");
    if (count != COLUMNS || rest != NULL)
        return bad_line(lines, err, "expected six fields separated by tabs");
    double ts = strtod(columns[COLUMN_TS], &end);
    if (end == columns[COLUMN_TS] || *end != '\0' || !(ts >= 0 && ts <= TIME_MAX_S))
        return bad_line(lines, err, "ts is not a time in seconds since 1970");
    return add(reader,
               &(struct fields){.time_ms = llround(ts * 1000),
                                .session = *columns[COLUMN_SESSION] != '\0' ? columns[COLUMN_SESSION]
                                                                            : columns[COLUMN_USER],
                                .item = columns[COLUMN_ITEM],
                                .type = columns[COLUMN_TYPE],
                                .price = price_of(columns[COLUMN_PRICE])},
               err);
}

/* "" where it is absent; NULL where it is no text. */
static const char *text_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    return value == NULL || json_is_null(value) ? "" : json_string_value(value);
}

static enum dn_code json_line(struct reader *reader, struct dn_error *err)
{
    json_error_t fault;
    json_t *object = json_loadb(reader->lines->text, reader->lines->length, JSON_REJECT_DUPLICATES, &fault);

    if (object == NULL)
        return bad_line(reader->lines, err, fault.text);
    const json_t *time = json_object_get(object, "time_ms"), *price = json_object_get(object, "price");
    const char *session = text_of(object, "session"), *user = text_of(object, "user");
    const char *item = text_of(object, "item"), *type = text_of(object, "type");
    enum dn_code code;
    if (!json_is_object(object))
        code = bad_line(reader->lines, err, "not a JSON object");
    else if (session == NULL || user == NULL || item == NULL || type == NULL)
        code = bad_line(reader->lines, err, "session, user, item and type must be strings");
    else if (!json_is_integer(time) || json_integer_value(time) < 0 ||
             json_integer_value(time) > (json_int_t)(TIME_MAX_S * 1000))
        code = bad_line(reader->lines, err, "time_ms must be an integer, milliseconds since 1970");
    else
        code = add(reader,
                   &(struct fields){.time_ms = json_integer_value(time),
                                    .session = *session != '\0' ? session : user,
                                    .item = item,
                                    .type = type,
                                    .price = json_is_number(price) && json_number_value(price) >= 0
                                                 ? (float)json_number_value(price)
                                                 : NAN},
                   err);
    json_decref(object);
    return code;
}

/* Items of one session with spaces between them; times are made up: one session after the other. */
static enum dn_code sequence(struct reader *reader, char *text, int64_t start_ms, int64_t span_ms,
                             uint32_t group, struct dn_error *err)
{
    int64_t count = 1, position = 0;
    char *rest = text;

    for (const char *at = text; *at != '\0'; at++)
        count += *at == ' ';
    for (char *item; (item = strsep(&rest, " ")) != NULL; position++) {
        if (*item == '\0')
            continue;
        if (!dn_id_valid(item, strlen(item)))
            return bad_line(reader->lines, err, "an item is not an id (1 to 256 bytes of UTF-8)");
        if (is_left_out(reader, item)) {
            reader->set->facts.left_out++;
            continue;
        }
        enum dn_code code = add_raw(
            reader, group,
            &(struct fields){
                .time_ms = start_ms + position * span_ms / count, .item = item, .type = "", .price = NAN},
            err);
        if (code != DN_OK)
            return code;
    }
    return DN_OK;
}

static enum dn_code sequence_line(struct reader *reader, struct dn_error *err)
{
    char name[32];
    int length = snprintf(name, sizeof name, "line-%llu", (unsigned long long)reader->lines->number);
    uint32_t group;

    if (!group_of(&reader->raws, name, (size_t)length, &group))
        return no_memory(err, reader->raws.count);
    return sequence(reader, reader->lines->text,
                    SEQUENCES_MS + (int64_t)reader->raws.group_count * reader->input->pace_ms,
                    reader->input->pace_ms, group, err);
}

/* ---- files ------------------------------------------------------------------------------------------- */

typedef enum dn_code (*line_reader)(struct reader *reader, struct dn_error *err);

/* By the first line, which is read already; *ret_header: it is no event. */
static line_reader format_of(struct reader *reader, bool *ret_header)
{
    *ret_header = strcmp(reader->lines->text, tsv_header) == 0;
    if (*ret_header) {
        reader->set->facts.format = "timed";
        return tsv_line;
    }
    if (reader->lines->text[0] == '{') {
        reader->set->facts.format = "JSON lines";
        return json_line;
    }
    reader->set->facts.format = "sequences";
    return sequence_line;
}

static enum dn_code read_events(struct reader *reader, struct dn_error *err)
{
    enum dn_code code = lines_open(reader->lines, reader->input->events, err);
    line_reader read_line = NULL;

    if (code != DN_OK)
        return code;
    while ((code = lines_next(reader->lines, err)) == DN_OK) {
        bool header = false;
        if (reader->lines->length == 0)
            continue;
        if (read_line == NULL)
            read_line = format_of(reader, &header);
        if (read_line == sequence_line && strchr(reader->lines->text, '\t') != NULL)
            code = bad_line(reader->lines, err,
                            "a tab, but no header 'ts user session item type price' (separated by tabs) in "
                            "the first line, which makes this a file of sequences");
        else if (!header)
            code = read_line(reader, err);
        if (code != DN_OK)
            break;
        reader->set->facts.lines += !header;
    }
    lines_close(reader->lines);
    if (code == DN_NOT_FOUND)
        code = reader->raws.count == 0 ? dn_fail(err, DN_INVALID, "%s: no event in it", reader->input->events)
                                       : DN_OK;
    return code;
}

/* Consecutive lines are of one session where the one is the other without its last item. */
static bool is_same_session(const struct dn_eval_set *set, const struct dn_eval_case *a,
                            const struct dn_eval_case *b)
{
    const struct dn_eval_case *shorter = a->length < b->length ? a : b,
                              *longer = a->length < b->length ? b : a;

    if (shorter->length + 1 != longer->length)
        return false;
    for (size_t i = 0; i <= shorter->length; i++)
        if (set->events[shorter->first + i].item != set->events[longer->first + i].item)
            return false;
    return true;
}

/* The clicks from `from` on become one case. */
static enum dn_code add_case(struct reader *reader, size_t *capacity, size_t from, struct dn_error *err)
{
    struct dn_eval_set *set = reader->set;
    void *cases = set->cases;

    if (!dn_eval_grow(&cases, set->case_count, capacity, sizeof *set->cases))
        return no_memory(err, reader->raws.count);
    set->cases = cases;
    set->cases[set->case_count++] =
        (struct dn_eval_case){.first = from, .length = (uint32_t)(reader->raws.count - from - 1)};
    return DN_OK;
}

/* `prefix TAB item`: clicks behind those of the training sessions. */
static enum dn_code pair_line(struct reader *reader, int64_t start_ms, size_t *capacity, struct dn_error *err)
{
    char *tab = strchr(reader->lines->text, '\t');
    size_t from = reader->raws.count;

    if (tab == NULL || strpbrk(tab + 1, "\t ") != NULL || tab[1] == '\0' || tab == reader->lines->text)
        return bad_line(reader->lines, err, "expected items separated by spaces, a tab, and one item");
    if (is_left_out(reader, tab + 1)) {
        reader->set->facts.left_out++;
        return DN_OK;
    }
    *tab = ' ';
    enum dn_code code = sequence(reader, reader->lines->text, start_ms, reader->input->pace_ms, 0, err);
    if (code == DN_OK && reader->raws.count - from >= 2)
        code = add_case(reader, capacity, from, err);
    return code;
}

static enum dn_code read_pairs(struct reader *reader, struct dn_error *err)
{
    enum dn_code code = lines_open(reader->lines, reader->input->test, err);
    int64_t start_ms = SEQUENCES_MS + ((int64_t)reader->raws.group_count + 2) * reader->input->pace_ms;
    size_t capacity = 0;

    if (code != DN_OK)
        return code;
    while ((code = lines_next(reader->lines, err)) == DN_OK) {
        if (reader->lines->length == 0)
            continue;
        code = pair_line(reader, start_ms, &capacity, err);
        if (code != DN_OK)
            break;
        reader->set->facts.lines++;
    }
    lines_close(reader->lines);
    return code == DN_NOT_FOUND ? DN_OK : code;
}

/* Clicks of test pairs as events behind the others, in the order they were read; sessions of cases. */
static enum dn_code build_pairs(struct reader *reader, size_t raws_before, struct dn_error *err)
{
    struct dn_eval_set *set = reader->set;
    struct dn_eval_raws *raws = &reader->raws;
    size_t before = set->event_count, more = raws->count - raws_before;
    struct dn_eval_event *events = reallocarray(set->events, before + more + 1, sizeof *events);

    if (events == NULL)
        return no_memory(err, raws->count);
    set->events = events;
    for (size_t i = 0; i < more; i++) {
        const struct dn_eval_raw *raw = &raws->list[raws_before + i];
        events[before + i] =
            (struct dn_eval_event){.time_ms = raw->time_ms, .item = raw->item, .type = raw->type};
    }
    set->event_count += more;
    for (size_t i = 0; i < set->case_count; i++) {
        struct dn_eval_case *at = &set->cases[i];
        at->first = at->first - raws_before + before;
        at->cluster = i == 0 ? 0 : set->cases[i - 1].cluster + !is_same_session(set, &set->cases[i - 1], at);
    }
    set->cluster_count = set->case_count == 0 ? 0 : set->cases[set->case_count - 1].cluster + 1u;
    set->facts.cases = set->case_count;
    set->facts.test_sessions = set->cluster_count;
    return DN_OK;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static enum dn_code check(struct reader *reader, struct dn_error *err)
{
    const struct dn_eval_input *input = reader->input;
    const char *drop = input->drop_types != NULL ? input->drop_types : "cancel";

    if (!(input->split > 0 && input->split < 1))
        return dn_fail(err, DN_INVALID, "split is %g: it must be above 0 and below 1", input->split);
    if (input->gap_ms < 0 || input->pace_ms < 1 || input->pace_ms > INT64_C(86400000))
        return dn_fail(err, DN_INVALID, "gap_ms must not be negative, and pace_ms must be 1 to 86400000");
    if (strlen(drop) > DROP_TYPES_MAX)
        return dn_fail(err, DN_INVALID, "the types to drop have more than %d bytes", DROP_TYPES_MAX);
    snprintf(reader->drop, sizeof reader->drop, ",%s,", drop);
    if (input->item_pattern == NULL)
        return DN_OK;
    int fault = regcomp(&reader->pattern, input->item_pattern, REG_EXTENDED | REG_NOSUB);
    if (fault != 0) {
        char text[PATTERN_ERROR_MAX];
        regerror(fault, &reader->pattern, text, sizeof text);
        return dn_fail(err, DN_INVALID, "item pattern '%s': %s", input->item_pattern, text);
    }
    reader->has_pattern = true;
    return DN_OK;
}

static enum dn_code read_all(struct reader *reader, struct dn_error *err)
{
    enum dn_code code = check(reader, err);

    if (code == DN_OK)
        code = read_events(reader, err);
    if (code != DN_OK)
        return code;
    reader->set->facts.pairs = reader->input->test != NULL;
    if (reader->set->facts.pairs && strcmp(reader->set->facts.format, "sequences") != 0)
        return dn_fail(err, DN_INVALID, "%s has times: it is split in time, and takes no file of tests",
                       reader->input->events);
    size_t before = reader->raws.count;
    if (reader->set->facts.pairs)
        code = read_pairs(reader, err);
    if (code != DN_OK)
        return code;
    size_t all = reader->raws.count;
    reader->raws.count = before;
    code = dn_eval_set_build(reader->set, reader->input, &reader->raws, err);
    reader->raws.count = all;
    if (code == DN_OK && reader->set->facts.pairs)
        code = build_pairs(reader, before, err);
    if (code == DN_OK && (reader->set->train_count == 0 || reader->set->case_count == 0))
        code = dn_fail(err, DN_INVALID,
                       "%s: %zu sessions to learn from and %zu clicks to predict: there must be some of both",
                       reader->input->events, reader->set->train_count, reader->set->case_count);
    reader->set->facts.items = reader->set->item_count;
    return code;
}

enum dn_code dn_eval_read(const struct dn_eval_input *input, struct dn_eval_set **ret, struct dn_error *err)
{
    struct dn_eval_set *set = calloc(1, sizeof *set);
    struct lines *lines = calloc(1, sizeof *lines);
    struct reader reader = {.input = input, .set = set, .lines = lines};
    enum dn_code code = set == NULL || lines == NULL ? no_memory(err, 0) : read_all(&reader, err);

    if (reader.has_pattern)
        regfree(&reader.pattern);
    free(reader.raws.list);
    free(reader.raws.groups);
    free(reader.raws.table);
    free(lines);
    if (code == DN_OK)
        *ret = set;
    else
        dn_eval_set_free(set);
    return code;
}
