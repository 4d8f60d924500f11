/*
 * A mailbox: a list under a mutex, and an eventfd that is readable while the list
 * is not empty.  The fd is written only when the first letter arrives and read
 * only when all are taken, so a busy receiver costs its senders no system call.
 */
#include "daemon/base/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/base/clock.h"

struct mailbox {
	pthread_mutex_t lock;
	struct letter *first, **last;
	int fd;
};

int mailbox_open(struct mailbox **out)
{
	struct mailbox *m = calloc(1, sizeof *m);

	if (m == NULL)
		return -ENOMEM;
	m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->fd < 0) {
		int rc = -errno;

		free(m);
		return rc;
	}
	pthread_mutex_init(&m->lock, NULL);
	m->last = &m->first;
	*out = m;
	return 0;
}

void mailbox_close(struct mailbox *m)
{
	if (m == NULL)
		return;
	assert(m->first == NULL);
	pthread_mutex_destroy(&m->lock);
	close(m->fd);
	free(m);
}

int mailbox_fd(const struct mailbox *m)
{
	return m->fd;
}

void mailbox_post(struct mailbox *m, struct letter *l)
{
	uint64_t one = 1;
	ssize_t n;

	l->next = NULL;
	pthread_mutex_lock(&m->lock);
	if (m->first == NULL) {
		n = write(m->fd, &one, sizeof one);     /* cannot block: it was 0 */
		assert(n == sizeof one);
		(void)n;
	}
	*m->last = l;
	m->last = &l->next;
	pthread_mutex_unlock(&m->lock);
}

struct letter *mailbox_take(struct mailbox *m)
{
	struct letter *l;
	uint64_t count;
	ssize_t n;

	pthread_mutex_lock(&m->lock);
	l = m->first;
	if (l != NULL) {
		n = read(m->fd, &count, sizeof count);
		assert(n == sizeof count);
		(void)n;
		m->first = NULL;
		m->last = &m->first;
	}
	pthread_mutex_unlock(&m->lock);
	return l;
}

struct letter *mailbox_wait(struct mailbox *m, int timeout_ms)
{
	int64_t until = clock_steady_ms() + timeout_ms;
	struct letter *l;

	while ((l = mailbox_take(m)) == NULL) {
		struct pollfd p = { .fd = m->fd, .events = POLLIN };
		int64_t left = timeout_ms < 0 ? -1 : until - clock_steady_ms();

		if (timeout_ms >= 0 && left <= 0)
			break;
		poll(&p, 1, (int)left);
	}
	return l;
}
