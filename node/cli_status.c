#include "node/cli.h"

#include "grpc/health/v1/health.pb-c.h"

#include <stdio.h>
#include <string.h>

static error_t parse_nothing(int key, char *text, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->input;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child only_common[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};

/* ---- status
 * ---------------------------------------------------------------------------------------------------------
 */

static json_t *group_json(const Dunlin__V1__GroupStatus *group)
{
    char hash[20];
    json_t *object;

    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)group->state_hash);
    object = json_pack("{s:I, s:I, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:b}", "group",
                       (json_int_t)group->group, "leader_id", (json_int_t)group->leader_id, "leader",
                       group->leader, "is_leader", group->is_leader != 0, "term", (json_int_t)group->term,
                       "commit_index", (json_int_t)group->commit_index, "applied_index",
                       (json_int_t)group->applied_index, "first_index", (json_int_t)group->first_index,
                       "snapshot_index", (json_int_t)group->snapshot_index, "log_bytes",
                       (json_int_t)group->log_bytes, "hash_index", (json_int_t)group->hash_index,
                       "state_hash", hash, "no_space", group->no_space != 0);
    if (object == NULL)
        return json_null();
    json_object_set_new(object, "age_us",
                        group->age_known ? json_integer((json_int_t)group->age_us) : json_null());
    if (group->group > 0) {
        json_object_set_new(object, "users", json_integer((json_int_t)group->users));
        json_object_set_new(object, "items", json_integer((json_int_t)group->items));
        json_object_set_new(object, "events_applied", json_integer((json_int_t)group->events_applied));
        json_object_set_new(object, "duplicates", json_integer((json_int_t)group->duplicates));
        json_object_set_new(object, "late", json_integer((json_int_t)group->late));
        json_object_set_new(object, "refused", json_integer((json_int_t)group->refused));
        json_object_set_new(object, "memory_bytes", json_integer((json_int_t)group->memory_bytes));
        json_object_set_new(object, "stream_stalled", json_boolean(group->stream_stalled));
        json_object_set_new(object, "stream_age_ms", json_integer((json_int_t)group->stream_age_ms));
        json_object_set_new(object, "stream_reason", json_string(group->stream_reason));
        json_object_set_new(object, "dead_waiting", json_integer((json_int_t)group->dead_waiting));
    }
    return object;
}

static void status_json(const Dunlin__V1__StatusResponse *status)
{
    json_t *members = json_array(), *groups = json_array(), *object;

    for (size_t i = 0; i < status->n_members; i++)
        json_array_append_new(
            members, json_pack("{s:I, s:s, s:s}", "node_id", (json_int_t)status->members[i]->node_id, "name",
                               status->members[i]->name, "peer_address", status->members[i]->peer_address));
    for (size_t i = 0; i < status->n_groups; i++)
        json_array_append_new(groups, group_json(status->groups[i]));
    object =
        json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:b, s:s, s:I, s:I, s:s, s:I, s:I, s:b, s:o, s:o}", "node",
                  status->node, "node_id", (json_int_t)status->node_id, "cluster_id", status->cluster_id,
                  "version", status->version, "uptime_ms", (json_int_t)status->uptime_ms, "shards",
                  (json_int_t)status->shards, "ready", status->ready != 0, "not_ready_reason",
                  status->not_ready_reason, "catalog_items", (json_int_t)status->catalog_items, "vector_dim",
                  (json_int_t)status->vector_dim, "index_factory", status->index_factory, "index_built_items",
                  (json_int_t)status->index_built_items, "index_pending", (json_int_t)status->index_pending,
                  "index_building", status->index_building != 0, "members", members, "groups", groups);
    json_object_set_new(object, "stream_reason", json_string(status->stream_reason));
    dn_cli_print_json(object);
}

static void print_group(const Dunlin__V1__GroupStatus *group)
{
    char age[32] = "unknown", leader[32] = "none";

    if (group->leader_id != 0) /* a node that joined later has no name here */
        snprintf(leader, sizeof leader, "node %llu", (unsigned long long)group->leader_id);
    if (group->age_known)
        snprintf(age, sizeof age, "%.1f ms", (double)group->age_us / 1000);
    printf("%5u  %-16.16s %5llu %10llu %10llu %12s  %016llx @%-8llu %9llu %11llu%s%s\n", group->group,
           group->leader[0] != '\0' ? dn_cli_clean(group->leader) : leader, (unsigned long long)group->term,
           (unsigned long long)group->commit_index, (unsigned long long)group->applied_index, age,
           (unsigned long long)group->state_hash, (unsigned long long)group->hash_index,
           (unsigned long long)group->users, (unsigned long long)group->events_applied,
           group->is_leader ? "  leads" : "", group->no_space ? "  NO SPACE" : "");
}

static void status_text(const Dunlin__V1__StatusResponse *status)
{
    printf("node %s (id %llu) of cluster %s, version %s, up %.0f s\n", dn_cli_clean(status->node),
           (unsigned long long)status->node_id, dn_cli_clean(status->cluster_id),
           dn_cli_clean(status->version), (double)status->uptime_ms / 1000);
    if (status->ready)
        puts("ready");
    else
        printf("NOT READY: %s\n", dn_cli_clean(status->not_ready_reason));
    if (status->stream_reason[0] != '\0')
        printf("STREAMS STAND STILL: %s\n", dn_cli_clean(status->stream_reason));
    fputs("members:", stdout);
    for (size_t i = 0; i < status->n_members; i++)
        printf(" %llu%s%s (%s)", (unsigned long long)status->members[i]->node_id,
               status->members[i]->name[0] != '\0' ? " " : "", dn_cli_clean(status->members[i]->name),
               dn_cli_clean(status->members[i]->peer_address));
    printf("\ncatalogue: %llu items, vectors of %u, index %s with %llu built and %llu pending%s\n\n",
           (unsigned long long)status->catalog_items, status->vector_dim, dn_cli_clean(status->index_factory),
           (unsigned long long)status->index_built_items, (unsigned long long)status->index_pending,
           status->index_building ? ", building" : "");
    printf("%5s  %-16s %5s %10s %10s %12s  %-26s %9s %11s\n", "group", "leader", "term", "committed",
           "applied", "age", "state hash @ index", "users", "events");
    for (size_t i = 0; i < status->n_groups; i++)
        print_group(status->groups[i]);
}

int dn_cli_status(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_nothing,
                                     .children = only_common,
                                     .doc = "Shows a node's groups, leaders and freshness."};
    Dunlin__V1__StatusRequest request = DUNLIN__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *answer;
    int exit_code;

    argp_parse(&argp, argc, argv, 0, NULL, cli);
    exit_code = dn_cli_call(cli, "/dunlin.v1.Cluster/Status", &request.base,
                            &dunlin__v1__status_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    if (cli->json)
        status_json((const Dunlin__V1__StatusResponse *)answer);
    else
        status_text((const Dunlin__V1__StatusResponse *)answer);
    protobuf_c_message_free_unpacked(answer, NULL);
    return DN_CLI_OK;
}

/* ---- health
 * ---------------------------------------------------------------------------------------------------------
 */

int dn_cli_health(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_nothing,
                                     .children = only_common,
                                     .doc = "Asks grpc.health.v1; exit code 0 when the node is serving."};
    static const char *const names[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    ProtobufCMessage *answer;
    const char *name = "?";
    bool serving;
    int exit_code;

    argp_parse(&argp, argc, argv, 0, NULL, cli);
    exit_code = dn_cli_call(cli, "/grpc.health.v1.Health/Check", &request.base,
                            &grpc__health__v1__health_check_response__descriptor, &answer);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    {
        unsigned status = (unsigned)((const Grpc__Health__V1__HealthCheckResponse *)answer)->status;

        if (status < sizeof names / sizeof names[0])
            name = names[status];
        serving = status == 1;
    }
    protobuf_c_message_free_unpacked(answer, NULL);
    if (cli->json)
        dn_cli_print_json(json_pack("{s:s, s:b}", "status", name, "serving", serving));
    else
        puts(name);
    return serving ? DN_CLI_OK : DN_CLI_FAILED;
}
