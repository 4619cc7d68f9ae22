/* dunlind's configuration: the list `sources`. */
#include "node/config.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD "node: {id: 1, data_dir: /tmp/x}\ncluster: {id: c}\nsources:\n" /* three lines */
#define KAFKA "name: a, kind: kafka, topics: [t], brokers: 'h:1'"
#define FILES "name: a, kind: file, paths: [/x]"

static struct dn_config config, before;
static struct dn_error err;

static enum dn_code parse(const char *text)
{
    memset(&err, 0, sizeof(err));
    return dn_config_parse("a.yaml", text, strlen(text), &config, &err);
}

static void accepted(const char *entries)
{
    char text[8000];

    snprintf(text, sizeof(text), HEAD "%s", entries);
    if (parse(text) != DN_OK)
        fail_msg("%s: %s", text, err.message);
}

/* One entry in line 4 is refused with this key and reason. */
static void refused(const char *entry, const char *key, const char *inside)
{
    char text[8000], start[100];

    snprintf(text, sizeof(text), HEAD "  - {%s}\n", entry);
    snprintf(start, sizeof(start), "a.yaml:4: sources%s: ", key);
    if (parse(text) != DN_INVALID)
        fail_msg("not refused: %s", text);
    if (strncmp(err.message, start, strlen(start)) != 0 || !strstr(err.message, inside))
        fail_msg("'%s' is not '%s...%s'", err.message, start, inside);
}

static const char WHOLE[] =
    "  - name: clicks\n"
    "    kind: kafka\n"
    "    topics: [web.clicks, app-clicks]\n"
    "    brokers: host:9092,host2:9092\n"
    "    keyed: true\n"
    "    group_id: dunlin\n"
    "    format: json\n"
    "    message_bytes: 2MiB\n"
    "    fields: {user: user.id, item: item.sku, type: action, time: ts, time_unit: s,\n"
    "             weight: w, constant_type: \"\"}\n"
    "    types: {page_view: view, add_to_cart: cart, heart beat: none}\n"
    "    properties: {security.protocol: SASL_SSL, sasl.password_file: /run/pw,\n"
    "                 ssl.ca.location: \"/a b\"}\n"
    "    batch: {events: 100, bytes: 64KiB, ms: 7, inflight: 2}\n"
    "    dead_letters: {to: topic, topic: clicks.dead}\n"
    "  - {name: history, kind: file, paths: [/var/a, '/var/b, c'], follow: true,\n"
    "     format: protobuf, dead_letters: {path: /tmp/d}}\n";

static void whole_entries_load(void **state)
{
    (void)state;
    accepted(WHOLE);
    assert_int_equal(config.source_count, 2);
    const struct dn_source_config *clicks = &config.sources[0], *history = &config.sources[1];
    assert_string_equal(clicks->name, "clicks");
    assert_int_equal(clicks->kind, DN_SOURCE_KAFKA);
    assert_int_equal(clicks->list_count, 2);
    assert_string_equal(clicks->list[1], "app-clicks");
    assert_string_equal(clicks->brokers, "host:9092,host2:9092");
    assert_true(clicks->keyed);
    assert_string_equal(clicks->group_id, "dunlin");
    assert_int_equal(clicks->format, DN_FORMAT_JSON);
    assert_int_equal(clicks->message_bytes, 2 << 20);
    assert_string_equal(clicks->fields.user, "user.id");
    assert_string_equal(clicks->fields.weight, "w");
    assert_int_equal(clicks->fields.time_unit, DN_TIME_S);
    assert_int_equal(clicks->fields.type_count, 3);
    assert_string_equal(clicks->fields.types[1].name, "add_to_cart");
    assert_int_equal(clicks->fields.types[1].type, DN_EVENT_CART);
    assert_string_equal(clicks->fields.types[2].name, "heart beat");
    assert_int_equal(clicks->fields.types[2].type, 0);
    assert_int_equal(clicks->property_count, 3);
    assert_string_equal(clicks->properties[0].name, "security.protocol");
    assert_string_equal(clicks->properties[0].value, "SASL_SSL");
    assert_string_equal(clicks->properties[1].name, "sasl.password");
    assert_string_equal(clicks->properties[1].value, "");
    assert_string_equal(config.source_notes[0].property_files[1], "/run/pw");
    assert_int_equal(clicks->batch_events, 100);
    assert_int_equal(clicks->batch_bytes, 64 << 10);
    assert_int_equal(clicks->batch_ms, 7);
    assert_int_equal(clicks->inflight_batches, 2);
    assert_int_equal(clicks->dead_sink, DN_DEAD_TO_TOPIC);
    assert_string_equal(clicks->dead_to, "clicks.dead");
    assert_int_equal(history->kind, DN_SOURCE_FILE);
    assert_true(history->follow);
    assert_int_equal(history->format, DN_FORMAT_PROTOBUF);
    assert_string_equal(history->list[1], "/var/b, c");
    assert_string_equal(history->dead_to, "/tmp/d");
    /* What was not given. */
    assert_int_equal(history->message_bytes, 1 << 20);
    assert_string_equal(history->fields.user, "user_id");
    assert_string_equal(history->fields.item, "item_id");
    assert_string_equal(history->fields.time, "time_ms");
    assert_int_equal(history->fields.time_unit, DN_TIME_MS);
    assert_int_equal(history->batch_events, 5000);
    assert_int_equal(history->batch_bytes, 256 << 10);
    assert_int_equal(history->batch_ms, 5);
    assert_int_equal(history->inflight_batches, 4);
    assert_int_equal(history->dead_sink, DN_DEAD_TO_FILE);
    assert_int_equal(parse("node: {id: 1, data_dir: /x}\ncluster: {id: c}\nsources: []\n"), DN_OK);
    assert_int_equal(config.source_count, 0);
}

/* What is a text in YAML may stand in quotes: words to choose from and sizes too. */
static void texts_may_be_quoted(void **state)
{
    (void)state;
    accepted("  - {name: \"a\", kind: \"kafka\", topics: ['t'], brokers: 'h:1', format: 'protobuf',\n"
             "     message_bytes: \"2MiB\", dead_letters: {to: \"none\"}}\n"
             "  - {name: b, kind: 'file', paths: [\"/x\"]}\n");
    assert_int_equal(config.sources[0].kind, DN_SOURCE_KAFKA);
    assert_int_equal(config.sources[0].format, DN_FORMAT_PROTOBUF);
    assert_int_equal(config.sources[0].message_bytes, 2 << 20);
    assert_int_equal(config.sources[0].dead_sink, DN_DEAD_DROPPED);
    assert_int_equal(config.sources[1].kind, DN_SOURCE_FILE);
    refused("name: a, kind: \"kafk\", topics: [t]", "[].kind", "must be one of: kafka file; not 'kafk'");
    refused(KAFKA ", batch: {events: '5'}", "[].batch.events", "a number without quotes");
}

static void wrong_entries_are_refused(void **state)
{
    (void)state;
    refused("kind: kafka, topics: [t], brokers: 'h:1'", "[].name", "must be given");
    refused("name: a, topics: [t], brokers: 'h:1'", "[].kind", "must be given");
    refused("name: a b, kind: kafka, topics: [t]", "[].name", "letters");
    refused("name: 123456789012345678901234567890123, kind: kafka", "[].name", "at most 32 bytes");
    refused("name: a, kind: kafk, topics: [t]", "[].kind", "must be one of: kafka file; not 'kafk'");
    refused("name: a, kind: kaf, topics: [t]", "[].kind", "must be one of");
    refused(KAFKA ", topcs: [t]", "[].topcs", "did you mean sources[].topics?");
    refused(KAFKA ", batch: {event: 5}", "[].batch.event", "did you mean sources[].batch.events?");
    refused(KAFKA ", batch: 5", "[].batch", "keys and values");
    refused(KAFKA ", batch.events: 5", "[].batch.events", "unknown key");
    refused(KAFKA ", batch: {events: 0}", "[].batch.events", "1 to 10000 events");
    refused(KAFKA ", batch: {events: 5, events: 6}", "[].batch.events", "set twice");
    refused(KAFKA ", message_bytes: 17MiB", "[].message_bytes", "not 17MiB");
    refused(KAFKA ", keyed: 'true'", "[].keyed", "without quotes");
    refused(KAFKA ", format: avro", "[].format", "json protobuf");
    refused(KAFKA ", fields: {time_unit: m}", "[].fields.time_unit", "iso8601");
    refused(KAFKA ", fields: {user: ''}", "[].fields.user", "must not be empty");
    refused(KAFKA ", fields: {constant_type: none}", "[].fields.constant_type", "must be view");
    refused(KAFKA ", follow: true", "[].follow", "no meaning with kind: kafka");
    refused(KAFKA ", paths: [/x]", "[].paths", "not both");
    refused("name: a, kind: kafka, brokers: 'h:1', paths: [/x]", "[].paths", "no meaning with kind: kafka");
    refused("name: a, kind: kafka, brokers: 'h:1'", "[].topics", "at least one topic");
    refused("name: a, kind: kafka, topics: [], brokers: 'h:1'", "[].topics", "at least one topic");
    refused("name: a, kind: kafka, topics: [t]", "[].brokers", "must be given");
    refused("name: a, kind: kafka, brokers: 'h:1', topics: [t, u, t]", "[].topics", "twice");
    refused("name: a, kind: kafka, brokers: 'h:1', topics: t", "[].topics", "a list such as");
    refused("name: a, kind: kafka, brokers: 'h:1', topics: [[t]]", "[].topics", "single value");
    refused("name: a, kind: kafka, brokers: 'h:1', topics: ['^t']", "[].topics", "patterns");
    refused("name: a, kind: kafka, brokers: 'h:1', topics: "
            "[12345678901234567890123456789012345678901234567890123456789012x]",
            "[].topics", "together must be at most 63 bytes");
    refused(
        "name: a, kind: kafka, brokers: 'h:1', topics: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]",
        "[].topics", "more than 16");
    refused("name: a, kind: file", "[].paths", "at least one file");
    refused(FILES ", keyed: true", "[].keyed", "no meaning with kind: file");
    refused(FILES ", properties: {a: b}", "[].properties", "no meaning with kind: file");
    refused("name: a, kind: file, paths: [/x, '-']", "[].paths", "alone");
    refused(FILES ", dead_letters: {to: topic, topic: t}", "[].dead_letters.to", "file or none");
    refused(KAFKA ", dead_letters: {to: topic}", "[].dead_letters.topic", "must be given");
    refused(KAFKA ", dead_letters: {to: topic, topic: t}", "[].dead_letters.topic", "for ever");
    refused(KAFKA ", dead_letters: {topic: d}", "[].dead_letters.topic", "dead_letters.to");
    refused(FILES ", dead_letters: {path: /x}", "[].dead_letters.path", "for ever");
    refused("name: a, kind: file, paths: [/y, /x//], dead_letters: {path: /x/dead}", "[].dead_letters.path",
            "for ever");
    assert_int_equal(parse(HEAD "  - {name: a, kind: file, paths: [/x], dead_letters: {path: /x/y/z}}\n"
                                "  - {name: b, kind: file, paths: [/x], dead_letters: {path: /xy}}\n"),
                     DN_OK);
    refused(KAFKA ", dead_letters: {to: none, path: d}", "[].dead_letters.path", "dead_letters.to");
    refused(KAFKA ", types: {a: b}", "[].types", "a: must be view");
    refused(KAFKA ", types: {a: view, a: cart}", "[].types", "set twice");
    refused(KAFKA ", types: [a]", "[].types", "names and values");
    refused(KAFKA ", types: {a: [view]}", "[].types", "single value");
    refused(KAFKA ", types: {? [a] : view}", "[].types", "single value");
    char many[2000] = KAFKA ", types: {";
    for (int i = 0; i < 33; i++)
        sprintf(many + strlen(many), "%sn%d: view", i ? ", " : "", i);
    strcat(many, "}");
    refused(many, "[].types", "more than 32");
    assert_int_equal(parse(HEAD "  - {" KAFKA "}\n  - {" FILES "}\n"), DN_INVALID);
    assert_non_null(strstr(err.message, "a.yaml:5: sources[].name: is used by another source too"));
    assert_int_equal(parse(HEAD "  - {name: a, kind: file, paths: ['-']}\n"
                                "  - {name: b, kind: file, paths: ['-']}\n"),
                     DN_INVALID);
    assert_non_null(strstr(err.message, "a.yaml:5: sources[].paths: standard input"));
    assert_int_equal(parse("node: {id: 1, data_dir: /x}\ncluster: {id: c}\nsources: {name: a}\n"),
                     DN_INVALID);
    assert_non_null(strstr(err.message, "a.yaml:3: sources: must be a list of sources"));
    assert_int_equal(parse("node: {id: 1, data_dir: /x}\ncluster: {id: c}\nsources: [a]\n"), DN_INVALID);
    assert_non_null(strstr(err.message, "with name and kind"));
    strcpy(many, HEAD);
    for (int i = 0; i < 17; i++)
        sprintf(many + strlen(many), "  - {name: n%d, kind: file, paths: [/x]}\n", i);
    assert_int_equal(parse(many), DN_INVALID);
    assert_non_null(strstr(err.message, "a.yaml:20: sources: has more than 16"));
}

static void properties_are_checked(void **state)
{
    (void)state;
    refused(KAFKA ", properties: {bootstrap.servers: 'h:1'}", "[].properties", "give it as brokers");
    refused(KAFKA ", properties: {group.id_file: /x}", "[].properties", "give it as group_id");
    refused(KAFKA ", properties: {isolation.level: read_uncommitted}", "[].properties", "committed");
    refused(KAFKA ", properties: {sasl.password: a, sasl.password_file: b}", "[].properties", "given twice");
    refused(KAFKA ", properties: {sasl.password: (set)}", "[].properties", "sasl.password_file");
    refused(KAFKA ", properties: {sasl.password: ''}", "[].properties", "must not be empty");
    /* A secret never stands in a message. */
    refused(KAFKA ", properties: {sasl.password: hunter2, sasl.password_file: /x}", "[].properties", "");
    assert_null(strstr(err.message, "hunter2"));
}

/* ---- printing -------------------------------------------------------------------------------------------
 */

static char *print_text(void (*fill)(struct dn_buffer *out))
{
    struct dn_buffer out;

    dn_buffer_init(&out, 1 << 20);
    fill(&out);
    dn_buffer_u8(&out, 0);
    assert_false(out.failed);
    char *text = strdup((char *)out.bytes);
    dn_buffer_free(&out);
    return text;
}

static void fill_printed(struct dn_buffer *out)
{
    dn_config_print(&config, out);
}

/* But for lines, which differ. */
static void config_is_as_before(void)
{
    memset(before.lines, 0, sizeof(before.lines));
    memset(config.lines, 0, sizeof(config.lines));
    before.cluster.members[0].line = config.cluster.members[0].line = 0;
    for (size_t i = 0; i < DN_SOURCES_CONFIGURED_MAX; i++)
        before.source_notes[i].line = config.source_notes[i].line = 0;
    assert_memory_equal(&before, &config, sizeof(before));
}

static void what_is_printed_loads_again(void **state)
{
    (void)state;
    accepted(WHOLE);
    before = config;
    char *text = print_text(fill_printed);
    if (parse(text) != DN_OK)
        fail_msg("%s", err.message);
    free(text);
    config_is_as_before();
}

static void secrets_are_not_printed(void **state)
{
    (void)state;
    accepted("  - {" KAFKA
             ", properties: {sasl.password: hunter2, sasl.pasword: hunter3, security.protocol: X}}\n");
    assert_string_equal(config.sources[0].properties[0].value, "hunter2");
    char *text = print_text(fill_printed);
    assert_null(strstr(text, "hunter"));
    assert_non_null(strstr(text, "sasl.password: \"(set)\", sasl.pasword: \"(set)\", security.protocol: X"));
    /* It does not pass for a password. */
    assert_int_equal(parse(text), DN_INVALID);
    assert_non_null(strstr(err.message, "(set) is what --print-config shows"));
    free(text);
}

/* The sample's own way back: the first # of each line from "#sources:" on goes. */
static void the_sample_loads_uncommented(void **state)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    char *text = print_text(dn_config_print_sample);

    (void)state;
    char *from = strstr(text, "\n#sources:\n"), *to = from + 1;
    assert_non_null(from);
    for (from++; *from;) {
        size_t length = strcspn(from, "\n") + 1;

        assert_int_equal(*from, '#');
        memmove(to, from + 1, length - 1);
        to += length - 1;
        from += length;
    }
    *to = 0;
    if (dn_config_parse("sample", text, strlen(text), &config, &err) != DN_OK)
        fail_msg("%s\n%s", err.message, text);
    for (size_t i = 0; i < count; i++)
        if (config.lines[i] == 0 && strncmp(keys[i].path, "experiment.", 11) != 0) /* test_experiment.c */
            fail_msg("%s is not in the sample", keys[i].path);
    assert_int_equal(config.source_count, 3);
    assert_int_equal(config.sources[1].dead_sink, DN_DEAD_TO_TOPIC);
    assert_int_equal(config.sources[2].kind, DN_SOURCE_FILE);
    /* Where it says "Default:", it is the default. */
    before = config;
    accepted("  - {name: clicks, kind: kafka, topics: [web.clicks], brokers: '127.0.0.1:9092',\n"
             "     properties: {security.protocol: PLAINTEXT}, types: {page_view: view, heartbeat: none}}\n");
    assert_memory_equal(&before.sources[0], &config.sources[0], sizeof(config.sources[0]));
    free(text);
}

/* ---- secrets in files -----------------------------------------------------------------------------------
 */

static void write_file(const char *path, const char *bytes, size_t length, mode_t mode)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void passwords_come_from_files(void **state)
{
    char folder[] = "/tmp/dunlin-sources-XXXXXX", path[80], text[400], longest[600];

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/pw", folder);
    snprintf(text, sizeof(text), "  - {" KAFKA ", properties: {client.id: x, sasl.password_file: %s}}\n",
             path);
    accepted(text);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_IO);
    assert_non_null(strstr(err.message, "source a: sasl.password_file"));
    write_file(path, "hunter2 \n", 9, 0640);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_DENIED);
    assert_non_null(strstr(err.message, "0640"));
    write_file(path, "hunter2 \n", 9, 0600);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_OK);
    assert_string_equal(config.sources[0].properties[1].value, "hunter2");
    assert_string_equal(config.sources[0].properties[0].value, "x");
    char *printed = print_text(fill_printed);
    assert_null(strstr(printed, "hunter2"));
    assert_non_null(strstr(printed, "sasl.password_file: "));
    free(printed);
    write_file(path, "\n", 1, 0600);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "is empty"));
    write_file(path, "a\0b", 3, 0600);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "NUL"));
    memset(longest, 'p', sizeof(longest));
    write_file(path, longest, DN_SOURCE_TEXT_MAX - 1, 0600);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_OK);
    write_file(path, longest, DN_SOURCE_TEXT_MAX, 0600);
    assert_int_equal(dn_config_read_secrets(&config, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "at most 511 bytes"));
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_entries_load),           cmocka_unit_test(texts_may_be_quoted),
        cmocka_unit_test(wrong_entries_are_refused),    cmocka_unit_test(properties_are_checked),
        cmocka_unit_test(what_is_printed_loads_again),  cmocka_unit_test(secrets_are_not_printed),
        cmocka_unit_test(the_sample_loads_uncommented), cmocka_unit_test(passwords_come_from_files),
    };

    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
