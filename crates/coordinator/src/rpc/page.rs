//! Pages of a list. A page token is the key of the last item given out, so that a list may change between pages.

/// Items a page when the client doesn't say.
const USUAL: u32 = 100;
/// Items a page at most.
const MOST: u32 = 500;

/// The items after `token` and the next page's token (empty: none). `key` names an item; items come in a fixed order.
///
/// An item that `token` names but that is gone since: the list starts anew.
pub(super) fn page<T>(items: Vec<T>, size: u32, token: &str, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let size = if size == 0 { USUAL } else { size.min(MOST) } as usize;
    let start = match token {
        "" => 0,
        token => items
            .iter()
            .position(|item| key(item) == token)
            .map_or(0, |at| at + 1),
    };
    let more = items.len() > start + size;
    let items: Vec<T> = items.into_iter().skip(start).take(size).collect();
    let next = items.last().filter(|_| more).map(&key).unwrap_or_default();
    (items, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once() {
        let all: Vec<u32> = (0..7).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (items, next) = page(all.clone(), 3, &token, ToString::to_string);
            seen.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
        let (items, next) = page(all, 7, "", ToString::to_string);
        assert_eq!((items.len(), next.as_str()), (7, ""));
    }
}
