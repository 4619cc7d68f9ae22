/* A stock Python gRPC client (tests/integration/grpc_client.py) against the real services in this process.
 * Skipped, by name, where Debian's python3-grpcio or python3-grpc-tools is missing. */
#include "cluster.h"

#include <spawn.h>
#include <sys/wait.h>

#define EXIT_SKIPPED 77
#define PYTHON "/usr/bin/python3" /* Debian's own: the packages belong to it */

extern char **environ;

static void run_client(struct dn_api_limits limits, const char *mode)
{
    static struct cluster cluster;
    char script[1024], *slash;
    snprintf(script, sizeof script, "%s", __FILE__);
    slash = strrchr(script, '/');
    assert_non_null(slash);
    snprintf(slash, sizeof script - (size_t)(slash - script), "/../../integration/grpc_client.py");
    if (access(PYTHON, X_OK) != 0) {
        print_message("skipped: no %s\n", PYTHON);
        skip();
    }
    cluster_start(&cluster, limits);
    char *arguments[] = {(char[]){PYTHON},        script, (char[]){"--address"}, cluster.address,
                         (char *)(uintptr_t)mode, NULL};
    pid_t child;
    int status = -1;
    assert_int_equal(posix_spawn(&child, PYTHON, NULL, NULL, arguments, environ), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    cluster_stop(&cluster);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == EXIT_SKIPPED)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_stock_client(void **state)
{
    (void)state;
    run_client((struct dn_api_limits){0}, NULL);
}

static void test_stock_client_of_a_busy_node(void **state)
{
    (void)state;
    run_client((struct dn_api_limits){.pending_calls = 8}, "--busy");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stock_client),
                                       cmocka_unit_test(test_stock_client_of_a_busy_node)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
