/* dunlind's configuration: the part `experiment`. */
#include "node/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "node: {id: 1, data_dir: /tmp/x}\ncluster: {id: c}\n" /* two lines */
#define NAMED HEAD "experiment:\n  name: x\n  variants:\n"         /* five */

static struct dn_config config;
static struct dn_error err;

static enum dn_code parse(const char *text)
{
    memset(&err, 0, sizeof(err));
    return dn_config_parse("a.yaml", text, strlen(text), &config, &err);
}

static void refused(const char *text, const char *start, const char *inside)
{
    if (parse(text) != DN_INVALID)
        fail_msg("not refused: %s", text);
    if (strncmp(err.message, start, strlen(start)) != 0 || !strstr(err.message, inside))
        fail_msg("'%s' is not '%s...%s'", err.message, start, inside);
}

static void test_loads(void **state)
{
    struct dn_experiment experiment;

    (void)state;
    assert_int_equal(parse(HEAD), DN_OK);
    dn_config_experiment(&config, &experiment);
    assert_int_equal(experiment.count, 0);
    assert_int_equal(parse(HEAD "experiment: {name: '', variants: []}\n"), DN_OK);
    if (parse(NAMED "    - {name: control, share: 0.25}\n"
                    "    - name: other\n      share: 0.5\n      diversity: 0.3\n      category_cap: 4\n"
                    "      sources_off: ' covis,  trending'\n      fixed_weights: true\n") != DN_OK)
        fail_msg("%s", err.message);
    dn_config_experiment(&config, &experiment);
    assert_string_equal(experiment.name, "x");
    assert_int_equal(experiment.count, 2);
    assert_string_equal(experiment.variants[0].name, "control");
    assert_true(experiment.variants[0].share == 0.25 && experiment.variants[0].diversity == 0);
    assert_true(experiment.variants[0].sources_off == 0 && !experiment.variants[0].fixed_weights);
    assert_string_equal(experiment.variants[1].name, "other");
    assert_true(experiment.variants[1].share == 0.5 && experiment.variants[1].diversity == 0.3f);
    assert_int_equal(experiment.variants[1].category_cap, 4);
    assert_int_equal(experiment.variants[1].sources_off, 1u << DN_SOURCE_COVIS | 1u << DN_SOURCE_TRENDING);
    assert_true(experiment.variants[1].fixed_weights);

    static struct dn_config before;
    struct dn_buffer out;
    before = config;
    dn_buffer_init(&out, 1 << 20);
    dn_config_print(&config, &out);
    if (dn_config_parse("printed", out.bytes, out.length, &config, &err) != DN_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < 2; i++)
        config.experiment.variants[i].line = before.experiment.variants[i].line;
    assert_memory_equal(&config.experiment, &before.experiment, sizeof(config.experiment));
    dn_buffer_free(&out);
}

static void test_refused(void **state)
{
    (void)state;
    refused(HEAD "experiment: [a]\n", "a.yaml:3: experiment: ", "keys and values");
    refused(HEAD "experiment: {variants: {a: 1}}\n", "a.yaml:3: experiment.variants: ", "a list of");
    refused(HEAD "experiment: {variants: [a]}\n", "a.yaml:3: experiment.variants: ", "a list of");
    refused(HEAD "experiment: {nme: a}\n", "a.yaml:3: experiment.nme: ", "did you mean experiment.name?");
    refused(NAMED "    - {name: a, shar: 1}\n", "a.yaml:6: experiment.variants[].shar: ", "did you mean");
    refused(NAMED "    - {name: a}\n", "a.yaml:6: experiment.variants[].share: ", "must be given");
    refused(NAMED "    - {share: 1}\n", "a.yaml:6: experiment.variants[].name: ", "must be given");
    refused(NAMED "    - {name: a, share: 1.5}\n", "a.yaml:6: experiment.variants[].share: ", "0 to 1");
    refused(NAMED "    - {name: 'a b', share: 1}\n", "a.yaml:6: experiment.variants[]: ", "letters");
    refused(NAMED "    - {name: a, share: 0.6}\n    - {name: b, share: 0.6}\n",
            "a.yaml:7: experiment.variants[]: ", "1.2 together");
    refused(NAMED "    - {name: a, share: 1, sources_off: covs}\n",
            "a.yaml:6: experiment.variants[].sources_off: ", "'covs'; there are vstan, vmis");
    refused(NAMED "    - {name: a, share: 1, sources_off: vstan vmis rules covis session_vector session "
                  "trending catalog}\n",
            "a.yaml:6: experiment.variants[]: ", "every source is off");
    refused(NAMED "    - {name: a0123456789012345678901234567890123, share: 1}\n",
            "a.yaml:6: experiment.variants[].name: ", "at most 32 bytes");
    refused(HEAD "experiment: {name: x}\n", "a.yaml:3: experiment.name: ", "variants is empty");
    refused(HEAD "experiment: {variants: [{name: a, share: 1}]}\n", "a.yaml:1: experiment: ", "name: ''");
    char many[1024] = NAMED;
    for (int i = 0; i < DN_VARIANTS_MAX + 1; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), "    - {name: v%d, share: 0.1}\n", i);
    refused(many, "a.yaml:14: experiment.variants: ", "more than 8");
}

/* The sample's own way: the first # of each line from "#experiment:" to the next empty one goes. */
static void test_sample(void **state)
{
    struct dn_buffer sample, plain;
    struct dn_experiment experiment;
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    (void)state;
    dn_buffer_init(&sample, 1 << 20);
    dn_buffer_init(&plain, 1 << 20);
    dn_config_print_sample(&sample);
    dn_buffer_u8(&sample, 0);
    const char *text = (const char *)sample.bytes, *at = strstr(text, "\n#experiment:");
    assert_non_null(at);
    dn_buffer_append(&plain, text, (size_t)(at + 1 - text));
    for (const char *line = at + 1; *line != '\n';) {
        size_t length = strcspn(line, "\n") + 1;

        assert_int_equal(line[0], '#');
        dn_buffer_append(&plain, line + 1, length - 1);
        line += length;
    }
    if (dn_config_parse("sample", plain.bytes, plain.length, &config, &err) != DN_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < count; i++)
        if (config.lines[i] == 0 && strncmp(keys[i].path, "experiment.", 11) == 0)
            fail_msg("%s is not in the sample", keys[i].path);
    dn_config_experiment(&config, &experiment);
    assert_int_equal(experiment.count, 2);
    dn_buffer_free(&sample);
    dn_buffer_free(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_loads), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_sample)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
