package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.view.View
import android.widget.FrameLayout
import android.widget.RadioGroup

/** What a tab shows. */
interface Page {
    val view: View

    /** Keeps what the user did, for the page that is made after a rotation or a restart. */
    fun save(state: Bundle)

    /** The page is not shown any more. */
    fun close()
}

/**
 * The app's one screen: three tabs.
 *
 * Framework views and nothing of AndroidX: three pages of standard widgets need none of it, and the APK and the build stay small.
 */
class MainActivity : Activity() {
    private val states = HashMap<Int, Bundle>()
    private var page: Page? = null
    private lateinit var tabs: RadioGroup

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.main)
        for (tab in TABS) states[tab] = state?.getBundle("page_$tab") ?: Bundle()
        tabs = findViewById(R.id.tabs)
        tabs.setOnCheckedChangeListener { _, tab -> open(tab) }
        if (state == null) sharedPicture(intent)?.let { states.getValue(R.id.tab_try).putString("picture", it.toString()) }
        tabs.check(state?.getInt("tab", R.id.tab_try) ?: R.id.tab_try)
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        page?.save(states.getValue(tabs.checkedRadioButtonId))
        state.putInt("tab", tabs.checkedRadioButtonId)
        for ((tab, kept) in states) state.putBundle("page_$tab", kept)
    }

    override fun onDestroy() {
        page?.close()
        super.onDestroy()
    }

    override fun onActivityResult(
        request: Int,
        result: Int,
        data: Intent?
    ) {
        super.onActivityResult(request, result, data)
        if (request == PICK && result == RESULT_OK) (page as? TryPage)?.show(data?.data)
    }

    private fun open(tab: Int) {
        val home = findViewById<FrameLayout>(R.id.page)
        page?.let { it.save(states.getValue(openTab)) }
        page?.close()
        home.removeAllViews()
        openTab = tab
        val state = states.getValue(tab)
        val next =
            when (tab) {
                R.id.tab_benchmark -> BenchmarkPage(this, home, state)
                R.id.tab_accuracy -> AccuracyPage(this, home, state)
                else -> TryPage(this, home, state)
            }
        page = next
        home.addView(next.view)
    }

    private var openTab = R.id.tab_try

    /** The picture that another app shared; only content of a provider is taken, which that app could read itself. */
    private fun sharedPicture(intent: Intent): Uri? {
        if (intent.action != Intent.ACTION_SEND) return null
        // Another app packed it: it may be anything.
        return attempt {
            @Suppress("DEPRECATION") // the other form is of Android 13
            val uri: Uri? =
                if (Build.VERSION.SDK_INT >= 33) {
                    intent.getParcelableExtra(Intent.EXTRA_STREAM, Uri::class.java)
                } else {
                    intent.getParcelableExtra(Intent.EXTRA_STREAM)
                }
            uri?.takeIf { it.scheme == "content" }
        }.getOrNull()
    }

    companion object {
        /** The request of [TryPage] for a picture. */
        const val PICK = 1
        private val TABS = listOf(R.id.tab_try, R.id.tab_benchmark, R.id.tab_accuracy)
    }
}
