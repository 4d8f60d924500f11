/*
 * A mailbox: the seam between two threads.  Letters are owned messages; posting
 * one gives it away.  Many may post, one takes.  An eventfd becomes readable
 * when there is mail, so an event loop or poll() can wait for it.
 *
 * Embed struct letter as the first member of a message.
 */
#ifndef DAEMON_BASE_MAILBOX_H
#define DAEMON_BASE_MAILBOX_H

struct letter {
	struct letter *next;
	/* What the receiver does with it, self being the receiver's own object; set
	 * by whoever makes the letter, so that a receiver needs no table of kinds. */
	void (*open)(void *self, struct letter *l);
};

struct mailbox;

int mailbox_open(struct mailbox **out);
void mailbox_close(struct mailbox *m);                     /* must be empty; NULL is fine */
int mailbox_fd(const struct mailbox *m);                   /* for poll/libevent: readable = mail */
void mailbox_post(struct mailbox *m, struct letter *l);    /* any thread */
/* All mail in order of arrival, as a list linked by next, or NULL; clears the fd. */
struct letter *mailbox_take(struct mailbox *m);
/* The same, waiting at most timeout_ms (-1: for ever) when there is none. */
struct letter *mailbox_wait(struct mailbox *m, int timeout_ms);

#endif
