/* The C11 threads of librdkafka, by POSIX ones: only in builds with the thread sanitizer, which knows those
 * and not these, so that a program with librdkafka dies in the first callback. In glibc the types are the
 * same. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t) && sizeof(cnd_t) == sizeof(pthread_cond_t),
               "glibc's C11 threads are its POSIX threads");

struct entry {
    thrd_start_t function;
    void *argument;
};

static int result(int error)
{
    switch (error) {
    case 0:
        return thrd_success;
    case EBUSY:
        return thrd_busy;
    case ETIMEDOUT:
        return thrd_timedout;
    case ENOMEM:
        return thrd_nomem;
    default:
        return thrd_error;
    }
}

static void *enter(void *argument)
{
    struct entry entry = *(struct entry *)argument;
    free(argument);
    return (void *)(intptr_t)entry.function(entry.argument);
}

int thrd_create(thrd_t *thread, thrd_start_t function, void *argument)
{
    struct entry *entry = malloc(sizeof(*entry));
    if (!entry) {
        return thrd_nomem;
    }
    *entry = (struct entry){function, argument};
    int error = pthread_create((pthread_t *)thread, NULL, enter, entry);
    if (error) {
        free(entry);
    }
    return result(error);
}

int thrd_join(thrd_t thread, int *ret_result)
{
    void *value = NULL;
    int error = pthread_join((pthread_t)thread, &value);
    if (ret_result) {
        *ret_result = (int)(intptr_t)value;
    }
    return result(error);
}

int mtx_init(mtx_t *mutex, int kind)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    if (kind & mtx_recursive) {
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    }
    int error = pthread_mutex_init((pthread_mutex_t *)mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return result(error);
}

int mtx_lock(mtx_t *mutex)
{
    return result(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

int mtx_unlock(mtx_t *mutex)
{
    return result(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

void mtx_destroy(mtx_t *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

int cnd_init(cnd_t *condition)
{
    return result(pthread_cond_init((pthread_cond_t *)condition, NULL));
}

int cnd_signal(cnd_t *condition)
{
    return result(pthread_cond_signal((pthread_cond_t *)condition));
}

int cnd_broadcast(cnd_t *condition)
{
    return result(pthread_cond_broadcast((pthread_cond_t *)condition));
}

int cnd_wait(cnd_t *condition, mtx_t *mutex)
{
    return result(pthread_cond_wait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex));
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
    return result(pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until));
}

void cnd_destroy(cnd_t *condition)
{
    pthread_cond_destroy((pthread_cond_t *)condition);
}
